"""Who may download now, and how much may be staged: the most urgent first."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import IntEnum
from functools import partial
from typing import NamedTuple


class Urgency(IntEnum):
    """Why something is fetched, the most urgent first."""

    DEMAND = 0
    TRACE = 1
    REST = 2


#: Asked again after `Slots.hurry`, since a prefetched object may be demanded while its segments
#: wait. It never becomes less urgent.
AskUrgency = Callable[[], Urgency]


class _Budget:
    """Bytes that may be staged. What is larger than all of them goes alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.staged = 0

    def fits(self, size: int) -> bool:
        return not self.staged or self.staged + size <= self._limit


class _Waiter(NamedTuple):
    urgency: AskUrgency
    size: int
    turn: asyncio.Future[_Budget]


class Slots:
    """A semaphore over two amounts, downloads and staged bytes, with priorities.

    The rest has bytes of its own: it can be held back at any time, and nothing that is needed
    waits for what it has staged. An acquisition larger than all bytes of its kind is let through
    when that kind has nothing else staged, so that nothing can wait for ever.
    """

    def __init__(self, downloads: int, staged_bytes: int, rest_bytes: int) -> None:
        """``rest_bytes``: those of ``staged_bytes`` that only the rest has."""
        self._downloads = downloads
        self._needed = _Budget(staged_bytes - rest_bytes)
        self._rest = _Budget(rest_bytes)
        self._held = False
        self._running = 0
        self._order = itertools.count()
        #: By urgency, those who came first before the others: there may be thousands of them.
        self._waiting: dict[Urgency, dict[int, _Waiter]] = {urgency: {} for urgency in Urgency}

    @property
    def staged(self) -> int:
        """Bytes that are accounted now."""
        return self._needed.staged + self._rest.staged

    @asynccontextmanager
    async def download(self, size: int, urgency: AskUrgency) -> AsyncIterator[Callable[[], None]]:
        """Hold a download slot; ``size`` bytes stay accounted until the result is called."""
        ticket = next(self._order)
        turn: asyncio.Future[_Budget] = asyncio.get_running_loop().create_future()
        self._waiting[urgency()][ticket] = _Waiter(urgency, size, turn)
        self._admit()
        try:
            budget = await turn
        except asyncio.CancelledError:
            # Its turn may have come just before; a turn that was cancelled never comes.
            if not turn.cancelled():
                self._running -= 1
                turn.result().staged -= size
            self._admit()
            raise
        try:
            yield partial(self._unstage, budget, size)
        except BaseException:
            budget.staged -= size
            raise
        finally:
            self._running -= 1
            self._admit()

    def hold_rest(self, *, held: bool) -> None:
        """Let none of the rest begin while it is held."""
        self._held = held
        self._admit()

    def hurry(self) -> None:
        """Ask everything that waits how urgent it is now."""
        risen: defaultdict[Urgency, dict[int, _Waiter]] = defaultdict(dict)
        for before, queue in self._waiting.items():
            for ticket, waiter in list(queue.items()):
                if (now := waiter.urgency()) < before:
                    risen[now][ticket] = queue.pop(ticket)
        for now, waiters in risen.items():
            self._waiting[now] = dict(sorted((self._waiting[now] | waiters).items()))
        self._admit()

    def _unstage(self, budget: _Budget, size: int) -> None:
        budget.staged -= size
        self._admit()

    def _admit(self) -> None:
        for urgency, queue in self._waiting.items():
            rest = urgency is Urgency.REST
            budget = self._rest if rest else self._needed
            while queue:
                ticket, (_, size, turn) = next(iter(queue.items()))
                if turn.cancelled():
                    del queue[ticket]
                    continue
                if self._running >= self._downloads or not budget.fits(size):
                    return
                if rest and self._held:
                    return
                del queue[ticket]
                self._running += 1
                budget.staged += size
                turn.set_result(budget)
