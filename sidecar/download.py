"""Bounded downloads into the staging directory, the most urgent first."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import ParamSpec, Self

from buildsvc.cache import chunks
from buildsvc.cache.packs import pack_digest
from buildsvc.cache.roots import Location
from buildsvc.errors import CorruptObject, ObjectNotFound, ShortObject, UnreadableObject
from buildsvc.store.contract import Store
from buildsvc.store.copying import write_at
from sidecar.losses import Losses
from sidecar.segments import SegmentPlan, cut

P = ParamSpec("P")

#: Part of the staged bytes that trees may have.
_TREES = 4

#: 0 demand, 1 trace, 2 rest; asked again each time a slot is free, since a prefetched
#: object may be demanded while its segments wait.
Urgency = Callable[[], int]


class Slots:
    """A semaphore over two amounts, downloads and staged bytes, with priorities.

    An acquisition larger than the whole budget is let through alone, so that no
    segment can wait for ever.
    """

    def __init__(self, downloads: int, staged_bytes: int) -> None:
        self._downloads = downloads
        self._budget = staged_bytes
        self._staged = 0
        self._running = 0
        self._order = itertools.count()
        self._waiting: dict[int, tuple[Urgency, int, asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def download(self, size: int, urgency: Urgency) -> AsyncIterator[None]:
        """Hold a download slot; ``size`` bytes stay accounted until ``unstage``."""
        ticket = next(self._order)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = (urgency, size, turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.pop(ticket, None)
            # Its turn may have come just before; a turn that was cancelled never comes,
            # even when somebody else's end has taken it out of the queue meanwhile.
            if not turn.cancelled():
                self._running -= 1
                self.unstage(size)
            raise
        try:
            yield
        except BaseException:
            self._staged -= size
            raise
        finally:
            self._running -= 1
            self._admit()

    def unstage(self, size: int) -> None:
        """Give back staged bytes: their file is gone."""
        self._staged -= size
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._running < self._downloads:
            ticket = min(self._waiting, key=lambda t: (self._waiting[t][0](), t))
            _, size, turn = self._waiting[ticket]
            if self._staged and self._staged + size > self._budget:
                return
            del self._waiting[ticket]
            if turn.cancelled():
                continue
            self._running += 1
            self._staged += size
            turn.set_result(None)


class Downloads:
    """Fetches segments and trees to files, and small contents to memory.

    A tree stays staged until its object is laid out, which needs segments: so trees have
    ``trees``, slots and bytes of their own, and never wait for one another's segments.
    ``losses`` learns what turns out missing, cut short or corrupt.
    """

    def __init__(
        self, store: Store, staging: Path, slots: Slots, *, trees: Slots, losses: Losses
    ) -> None:
        self._store = store
        self._staging = staging
        self._slots = slots
        self._trees = trees
        self._names = itertools.count(1)
        self.losses = losses
        #: Segments downloaded so far: whoever waits in the queue sees that it moves.
        self.finished = 0

    @classmethod
    def within(
        cls, limit: int, store: Store, staging: Path, *, concurrency: int, losses: Losses
    ) -> Self:
        """Return downloads whose files have at most ``limit`` bytes, a quarter of them trees.

        A tree or a segment that has more is staged when no other is.
        """
        trees = limit // _TREES
        return cls(
            store,
            staging,
            Slots(concurrency, limit - trees),
            trees=Slots(concurrency, trees),
            losses=losses,
        )

    async def segment(self, plan: SegmentPlan, urgency: Urgency) -> Path:
        """Download one segment and return its file; ``released`` when the agent is done with it.

        Raises:
            StoreError: the store does not have it or does not answer.
        """
        path = self._staging / f"segment-{next(self._names)}"
        async with self._slots.download(plan.size, urgency):
            await self._write(plan, path)
        self.finished += 1
        return path

    def released(self, plan: SegmentPlan) -> None:
        """Take back the staged bytes of a segment whose file is gone."""
        self._slots.unstage(plan.size)

    async def content(self, locations: Iterable[Location], urgency: Urgency) -> bytes:
        """Download and verify the chunks and return their concatenation.

        Raises:
            CorruptObject: a chunk is not what its name says.
            StoreError: the store does not have it or does not answer.
        """
        parts = {index: data async for index, data in self._verified(locations, urgency)}
        return b"".join(parts[index] for index in sorted(parts))

    @asynccontextmanager
    async def tree(self, locations: Sequence[Location], urgency: Urgency) -> AsyncIterator[Path]:
        """Like ``content``, into a staged file, a segment at a time.

        It is gone afterwards; the agent may take it away before.
        """
        size = sum(at.length for at in locations)
        path = self._staging / f"tree-{next(self._names)}"
        async with self._trees.download(size, urgency):
            await self._write_content(locations, urgency, path)
        try:
            yield path
        finally:
            try:
                await asyncio.to_thread(path.unlink, missing_ok=True)
            finally:
                self._trees.unstage(size)

    async def _write_content(
        self, locations: Sequence[Location], urgency: Urgency, path: Path
    ) -> None:
        starts = list(itertools.accumulate((at.length for at in locations), initial=0))
        descriptor = _create(path)
        try:
            async with aclosing(self._verified(locations, urgency)) as verified:
                async for index, data in verified:
                    await _finished(write_at, descriptor, data, starts[index])
        except BaseException:
            await asyncio.to_thread(path.unlink)
            raise
        finally:
            os.close(descriptor)

    async def _verified(
        self, locations: Iterable[Location], urgency: Urgency
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Download the chunks and yield each with its place among them."""
        numbered = list(enumerate(locations))
        for plan in cut(numbered):
            async with self._slots.download(plan.size, urgency):
                got = []
                for part in plan.ranges:
                    with self._noticing(part.name):
                        got.append(await self._store.get_range(part.name, part.start, part.length))
            self._slots.unstage(plan.size)
            buffer = b"".join(got)
            for chunk in plan.chunks:
                stored = buffer[chunk.offset : chunk.offset + chunk.stored]
                try:
                    data = await asyncio.to_thread(
                        chunks.decode, stored, chunk.length, chunk.digest
                    )
                except CorruptObject:
                    self.losses.corrupt(numbered[chunk.chunk][1])
                    raise
                yield chunk.chunk, data

    @contextmanager
    def _noticing(self, name: str) -> Iterator[None]:
        try:
            yield
        except (ObjectNotFound, ShortObject, UnreadableObject):
            self.losses.missing(pack_digest(name))
            raise

    async def _write(self, plan: SegmentPlan, path: Path) -> None:
        descriptor = _create(path)
        try:
            for part in plan.ranges:
                with self._noticing(part.name):
                    await self._store.get_range_to(
                        part.name, part.start, part.length, descriptor, part.at
                    )
        except BaseException:
            await asyncio.to_thread(path.unlink)
            raise
        finally:
            os.close(descriptor)


def _create(path: Path) -> int:
    """Create a file; not in a thread: one that is cancelled would leave descriptor and file."""
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)


async def _finished(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call it in a thread; who is cancelled waits for its end, so that it undoes nothing later."""
    writing = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        await asyncio.shield(writing)
    except BaseException:
        await asyncio.wait([writing])
        raise
