"""Puts one object on disk from segments that come in one by one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar.agent import ports
from sidecar.agent.index import FailedPrecondition, Kind, NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from sidecar.agent.index import Row
    from sidecar.agent.residency import ObjectId, Residency
    from sidecar.agent.snapshotter import Snapshotter


class Target(Protocol):
    """What is filled: a snapshot's directory or a blob."""

    async def prepare(self) -> ports.Prepared:
        """Answers which chunks are wanted."""

    async def fill(self, segment: agent_pb2.Segment) -> ports.FillResult:
        """Writes what the segment has."""

    async def finish(self) -> None:
        """All chunks are written: the object is local when this returns."""


class SnapshotTarget:
    """A lazy snapshot's layer."""

    def __init__(
        self,
        row: Row,
        tree: Path,
        *,
        snapshotter: Snapshotter,
        unpacker: ports.Unpacker,
        priority: ports.Priority,
        sibling: ports.Sibling | None = None,
        keep_tree: bool = False,
    ) -> None:
        """`sibling` is what may be linked; `keep_tree`: this may be a sibling later."""
        self._row = row
        self._tree = tree
        self._layer = snapshotter.layer(row)
        self._snapshotter = snapshotter
        self._unpacker = unpacker
        self._priority = priority
        self._sibling = sibling
        # What is still written to after it was restored is not what its tree says.
        self._kept = (
            snapshotter.kept_tree(row) if keep_tree and row.kind is Kind.COMMITTED else None
        )
        self._linked = b""

    async def prepare(self) -> ports.Prepared:
        await self._snapshotter.begin_layer(self._row)
        prepared = await self._unpacker.prepare(
            self._tree, self._layer, sibling=self._sibling, priority=self._priority
        )
        self._linked = prepared.linked
        return prepared

    async def fill(self, segment: agent_pb2.Segment) -> ports.FillResult:
        return await self._unpacker.fill(
            self._tree, self._layer, segment, linked=self._linked, priority=self._priority
        )

    async def finish(self) -> None:
        await self._unpacker.finish(
            self._tree, self._layer, linked=self._linked, priority=self._priority
        )
        await asyncio.to_thread(_put_away, self._tree, self._kept)
        self._snapshotter.mark_local(self._row)


class BlobTarget:
    """A content blob."""

    def __init__(self, digest: str, blobs: ports.Blobs) -> None:
        self._digest = digest
        self._blobs = blobs

    async def prepare(self) -> ports.Prepared:
        return ports.Prepared(range(self._blobs.chunks(self._digest)))

    async def fill(self, segment: agent_pb2.Segment) -> ports.FillResult:
        return await self._blobs.fill(self._digest, segment)

    async def finish(self) -> None:
        await self._blobs.finish(self._digest)


class Filling:
    """One Fill call. Segments are worked on as they come, several at a time."""

    def __init__(
        self, key: ObjectId, target: Target, residency: Residency, *, tell_wanted: bool = False
    ) -> None:
        """`tell_wanted`: the first answer is which chunks are wanted."""
        self._key = key
        self._target = target
        self._residency = residency
        self._answers: asyncio.Queue[agent_pb2.FillResponse | None] = asyncio.Queue()
        self._tell_wanted = tell_wanted
        self._missing: set[int] = set()
        self._bytes = 0
        self._files = 0
        self._complete = asyncio.Event()
        #: Segments that nobody works on yet, and None at their end.
        self._arrived: asyncio.Queue[agent_pb2.Segment | None] = asyncio.Queue()

    async def run(
        self, segments: AsyncIterator[agent_pb2.Segment]
    ) -> AsyncGenerator[agent_pb2.FillResponse, None]:
        """Yields what the call answers; `done` comes as soon as every chunk has been written.

        Raises NotFound when the object was removed meanwhile, FailedPrecondition when the segments
        end too early, CorruptObject for a bad tree, OSError.
        """
        worker = asyncio.create_task(self._work(segments), name=f"fill {self._key.name}")
        worker.add_done_callback(lambda _: self._answers.put_nowait(None))
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
            await worker
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)

    async def _work(self, segments: AsyncIterator[agent_pb2.Segment]) -> None:
        # All the time: between segments a call tells of a new priority.
        reading = asyncio.create_task(self._read(segments), name=f"requests {self._key.name}")
        try:
            await self._put(reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, segments: AsyncIterator[agent_pb2.Segment]) -> None:
        try:
            async for segment in segments:
                self._arrived.put_nowait(segment)
        finally:
            self._arrived.put_nowait(None)

    async def _put(self, reading: asyncio.Task[None]) -> None:
        prepared = await self._target.prepare()
        self._missing = set(prepared.wanted)
        if self._tell_wanted:
            wanted = agent_pb2.WantedChunks(chunks=prepared.wanted, linked=prepared.linked.count(1))
            self._answers.put_nowait(agent_pb2.FillResponse(wanted=wanted))
        await self._receive(reading)
        await self._target.finish()
        self._residency.mark_local(self._key)
        done = agent_pb2.FillDone(bytes=self._bytes, files=self._files)
        self._answers.put_nowait(agent_pb2.FillResponse(done=done))

    async def _receive(self, reading: asyncio.Task[None]) -> None:
        """Returns when all chunks are written, whether or not the segments have ended."""
        if not self._missing:
            self._check_wanted()
            return
        try:
            async with asyncio.TaskGroup() as group:
                taker = group.create_task(self._take(reading, group))
                complete = group.create_task(self._complete.wait())
                # No segment may come for as long as a build runs, and the disk may be full.
                removed = group.create_task(self._residency.removed(self._key))
                ends = {taker, complete, removed}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                # Segments that have come are still worked on, in this group.
                for end in ends:
                    end.cancel()
        except BaseExceptionGroup as group_error:
            # One is enough: what it was decides the status of the call.
            raise group_error.exceptions[0] from None
        self._check_wanted()
        if self._missing:
            missing = len(self._missing)
            raise FailedPrecondition(f"{missing} chunks of {self._key.name} were never sent")

    async def _take(self, reading: asyncio.Task[None], group: asyncio.TaskGroup) -> None:
        while (segment := await self._arrived.get()) is not None:
            group.create_task(self._fill(segment))
        await asyncio.shield(reading)

    async def _fill(self, segment: agent_pb2.Segment) -> None:
        self._check_wanted()
        result = await self._target.fill(segment)
        await asyncio.to_thread(Path(segment.path).unlink, missing_ok=True)
        self._bytes += result.bytes
        self._files += result.files
        self._missing -= {staged.chunk for staged in segment.chunks} - set(result.corrupt)
        if result.corrupt:
            corrupt = agent_pb2.CorruptChunks(chunks=result.corrupt)
            self._answers.put_nowait(agent_pb2.FillResponse(corrupt=corrupt))
        self._answers.put_nowait(agent_pb2.FillResponse(released=segment.path))
        if not self._missing:
            self._complete.set()

    def _check_wanted(self) -> None:
        if self._residency.is_local(self._key):
            raise NotFound(f"{self._key.name} is not wanted any more")


def _put_away(tree: Path, kept: Path | None) -> None:
    """Move the tree to where it is kept, or delete it."""
    if kept is not None:
        with suppress(OSError):
            tree.replace(kept)
    tree.unlink(missing_ok=True)
