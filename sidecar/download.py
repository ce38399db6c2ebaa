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
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, Self

from buildsvc.cache import chunks
from buildsvc.cache.packs import pack_digest
from buildsvc.cache.roots import Location
from buildsvc.errors import CorruptObject, ObjectNotFound, ShortObject, UnreadableObject
from buildsvc.store.contract import Store
from buildsvc.store.copying import write_at
from sidecar.losses import Losses
from sidecar.segments import SEGMENT_BYTES, SegmentPlan, cut
from sidecar.slots import AskUrgency, Slots

P = ParamSpec("P")

#: Part of the staged bytes that trees may have, and part of either that the rest may have.
_TREES = 4
_REST = 4
#: Segments of the rest that are downloaded or unpacked at the same time: enough for link and
#: processor, and little to wait for when a build begins.
_REST_SEGMENTS = 4


@dataclass(frozen=True, slots=True)
class Staged:
    """A segment that has been downloaded; ``released`` is called when its file is gone."""

    plan: SegmentPlan
    path: Path
    released: Callable[[], None]


class Downloads:
    """Fetches segments and trees to files, and small contents to memory.

    A tree stays staged until its object is laid out, which needs segments: so trees have
    ``trees``, bytes of their own, and never wait for one another's segments.
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

        A part of either is the rest's. A tree that is larger than all bytes of its kind is staged
        when no other of that kind is, so there may be two of them.
        """
        trees = limit // _TREES
        segments = limit - trees
        rest = min(segments // _REST, _REST_SEGMENTS * SEGMENT_BYTES)
        return cls(
            store,
            staging,
            Slots(concurrency, segments, rest),
            trees=Slots(concurrency, trees, trees // _REST),
            losses=losses,
        )

    def hold_rest(self, *, held: bool) -> None:
        """Begin no download of the rest while it is held; those under way end."""
        self._slots.hold_rest(held=held)
        self._trees.hold_rest(held=held)

    def hurry(self) -> None:
        """Look again at what waits: something has become more urgent."""
        self._slots.hurry()
        self._trees.hurry()

    async def segment(self, plan: SegmentPlan, urgency: AskUrgency) -> Staged:
        """Download one segment to a file; its bytes stay accounted until it is ``released``.

        Raises:
            StoreError: the store does not have it or does not answer.
        """
        path = self._staging / f"segment-{next(self._names)}"
        async with self._slots.download(plan.size, urgency) as released:
            await self._write(plan, path)
        self.finished += 1
        return Staged(plan, path, released)

    async def content(self, locations: Iterable[Location], urgency: AskUrgency) -> bytes:
        """Download and verify the chunks and return their concatenation.

        Raises:
            CorruptObject: a chunk is not what its name says.
            StoreError: the store does not have it or does not answer.
        """
        parts = {index: data async for index, data in self._verified(locations, urgency)}
        return b"".join(parts[index] for index in sorted(parts))

    @asynccontextmanager
    async def tree(self, locations: Sequence[Location], urgency: AskUrgency) -> AsyncIterator[Path]:
        """Like ``content``, into a staged file, a segment at a time.

        It is gone afterwards; the agent may take it away before.
        """
        size = sum(at.length for at in locations)
        path = self._staging / f"tree-{next(self._names)}"
        async with self._trees.download(size, urgency) as released:
            # Only the bytes. A slot that it kept while its chunks wait, as those of the rest may
            # for a whole build, would be missing to what is needed.
            pass
        try:
            await self._write_content(locations, urgency, path)
            yield path
        finally:
            try:
                await asyncio.to_thread(path.unlink, missing_ok=True)
            finally:
                released()

    async def _write_content(
        self, locations: Sequence[Location], urgency: AskUrgency, path: Path
    ) -> None:
        starts = list(itertools.accumulate((at.length for at in locations), initial=0))
        async with aclosing(self._verified(locations, urgency)) as verified:
            async for index, data in verified:
                await _finished(_put, path, data, starts[index])

    async def _verified(
        self, locations: Iterable[Location], urgency: AskUrgency
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Download the chunks and yield each with its place among them."""
        numbered = list(enumerate(locations))
        for plan in cut(numbered):
            async with self._slots.download(plan.size, urgency) as released:
                got = []
                for part in plan.ranges:
                    with self._noticing(part.name):
                        got.append(await self._store.get_range(part.name, part.start, part.length))
            released()
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


def _put(path: Path, data: bytes, at: int) -> None:
    """Write a part of a file; no descriptor is open while the next part is waited for."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        write_at(descriptor, data, at)
    finally:
        os.close(descriptor)


async def _finished(function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
    """Call it in a thread; who is cancelled waits for its end, so that it undoes nothing later."""
    writing = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        await asyncio.shield(writing)
    except BaseException:
        await asyncio.wait([writing])
        raise
