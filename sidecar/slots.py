"""Who may download now, and how much may be staged: the most urgent first."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import IntEnum
from functools import partial


class Urgency(IntEnum):
    """Why something is fetched, the most urgent first."""

    DEMAND = 0
    TRACE = 1
    REST = 2


#: Asked again each time a slot is free, since a prefetched object may be demanded while its
#: segments wait.
AskUrgency = Callable[[], Urgency]


class _Budget:
    """Bytes that may be staged. What is larger than all of them goes alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.staged = 0

    def fits(self, size: int) -> bool:
        return not self.staged or self.staged + size <= self._limit


class Slots:
    """A semaphore over two amounts, downloads and staged bytes, with priorities.

    The rest has bytes of its own: it can be held back at any time, and nothing that is needed
    waits for what it has staged. An acquisition larger than a whole budget is let through alone,
    so that no segment can wait for ever.
    """

    def __init__(self, downloads: int, staged_bytes: int, rest_bytes: int) -> None:
        """``rest_bytes``: those of ``staged_bytes`` that only the rest has."""
        self._downloads = downloads
        self._needed = _Budget(staged_bytes - rest_bytes)
        self._rest = _Budget(rest_bytes)
        self._held = False
        self._running = 0
        self._order = itertools.count()
        self._waiting: dict[int, tuple[AskUrgency, int, asyncio.Future[_Budget]]] = {}

    @property
    def staged(self) -> int:
        """Bytes that are accounted now."""
        return self._needed.staged + self._rest.staged

    @asynccontextmanager
    async def download(self, size: int, urgency: AskUrgency) -> AsyncIterator[Callable[[], None]]:
        """Hold a download slot; ``size`` bytes stay accounted until the result is called."""
        ticket = next(self._order)
        turn: asyncio.Future[_Budget] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = (urgency, size, turn)
        self.admit()
        try:
            budget = await turn
        except asyncio.CancelledError:
            self._waiting.pop(ticket, None)
            # Its turn may have come just before; a turn that was cancelled never comes,
            # even when somebody else's end has taken it out of the queue meanwhile.
            if not turn.cancelled():
                self._running -= 1
                self._unstage(turn.result(), size)
            raise
        try:
            yield partial(self._unstage, budget, size)
        except BaseException:
            budget.staged -= size
            raise
        finally:
            self._running -= 1
            self.admit()

    def hold_rest(self, *, held: bool) -> None:
        """Let none of the rest begin while it is held."""
        self._held = held
        self.admit()

    def _unstage(self, budget: _Budget, size: int) -> None:
        budget.staged -= size
        self.admit()

    def admit(self) -> None:
        """Let begin what may; also when something that waits has become more urgent."""
        while self._waiting and self._running < self._downloads:
            ticket = min(self._waiting, key=lambda t: (self._waiting[t][0](), t))
            urgency, size, turn = self._waiting[ticket]
            rest = urgency() is Urgency.REST
            budget = self._rest if rest else self._needed
            if (rest and self._held) or not budget.fits(size):
                return
            del self._waiting[ticket]
            if turn.cancelled():
                continue
            self._running += 1
            budget.staged += size
            turn.set_result(budget)
