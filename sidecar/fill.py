"""One Fill call on the agent: an object's tree and segments go down, the object is on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import grpc.aio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.errors import BuildsvcError, CorruptObject
from buildsvc.failures import cause
from sidecar.agentclient import AgentClient
from sidecar.download import Downloads, Staged
from sidecar.plan import Content, ObjectKey
from sidecar.segments import SegmentPlan, cut
from sidecar.slots import AskUrgency

#: How one object cannot be had: the store or its bytes, the local disk, the agent. The last
#: is gRPC's for a write to a call that ended while the segment was downloaded.
FAILURES = (BuildsvcError, OSError, grpc.aio.AioRpcError, asyncio.InvalidStateError)


class Fill:
    """One object's way to the disk: tree, segments, and a second try for corrupt chunks.

    Segments are downloaded at once, and wait for the agent to be ``loaded``. ``link_from`` names
    a local snapshot with largely the same files, which become links of its own; only the chunks
    of the others are downloaded. ``keep_tree``: others may be linked from this one.
    """

    def __init__(
        self,
        agent: AgentClient,
        downloads: Downloads,
        key: ObjectKey,
        content: Content,
        urgency: AskUrgency,
        *,
        loaded: asyncio.Event,
        link_from: str = "",
        keep_tree: bool = False,
    ) -> None:
        self._agent = agent
        self._loaded = loaded
        self._downloads = downloads
        self._key = key
        self._content = content
        self._urgency = urgency
        self._retried: set[int] = set()
        self._tree = ""
        self._staged: dict[str, Staged] = {}
        self._link_from = link_from
        self._keep_tree = keep_tree
        self._told = urgency()
        self._outstanding = 0
        #: Stored bytes to be downloaded, in all and not yet laid out by the agent.
        self.stored = self.remaining = content.stored
        #: Files that were linked instead.
        self.linked = 0
        #: The loop's time when the first segment had been downloaded.
        self.began: float | None = None
        self._all_served = asyncio.Event()
        self._hurried = asyncio.Event()
        self._opened = asyncio.Event()
        # gRPC takes one write at a time.
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Fetch and lay out the object.

        Raises:
            CorruptObject: a chunk was corrupt twice.
            StoreError: the store does not have it or does not answer.
            AioRpcError: the agent is gone or refused it.
        """
        if not self._content.tree:
            await self._lay_out()
            return
        async with self._downloads.tree(self._content.tree, self._urgency) as path:
            self._tree = str(path)
            await self._lay_out()

    def hurry(self) -> None:
        """Tell the agent, which may have the segments already, that it has become more urgent."""
        self._hurried.set()

    async def _lay_out(self) -> None:
        try:
            await self._fill()
        finally:
            for staged in self._staged.values():
                staged.released()
            # What the agent is done with it has deleted itself.
            await asyncio.to_thread(_unlink, list(self._staged))

    async def _fill(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                if not self._link_from:
                    self._add(group, range(len(self._content.data)))
                await self._loaded.wait()
                await self._exchange(group)
        except ExceptionGroup as failures:
            raise cause(failures, FAILURES) from None

    async def _exchange(self, group: asyncio.TaskGroup) -> None:
        self._call = self._agent.fill()
        try:
            self._told = self._urgency()
            header = agent_pb2.FillHeader(
                object=self._key.to_proto(),
                tree_path=self._tree,
                priority=self._told,
                link_from=self._link_from,
                keep_tree=self._keep_tree,
            )
            await self._call.write(agent_pb2.FillRequest(header=header))
            self._opened.set()
            answers = group.create_task(self._answers(group))
            hurrying = group.create_task(self._hurry())
            await self._all_served.wait()
            self._hurried.set()
            await hurrying
            await self._call.done_writing()
            await answers
        finally:
            self._call.cancel()

    def _add(self, group: asyncio.TaskGroup, chunks: Iterable[int]) -> None:
        plans = list(cut((index, self._content.data[index]) for index in chunks))
        self._outstanding += len(plans)
        for plan in plans:
            group.create_task(self._send(plan))
        if not self._outstanding:
            self._all_served.set()

    async def _send(self, plan: SegmentPlan) -> None:
        staged = await self._downloads.segment(plan, self._urgency)
        self._staged[str(staged.path)] = staged
        if self.began is None:
            self.began = asyncio.get_running_loop().time()
        await self._opened.wait()
        async with self._writing:
            await self._tell()
            await self._call.write(agent_pb2.FillRequest(segment=plan.staged(staged.path)))

    async def _hurry(self) -> None:
        while not self._all_served.is_set():
            await self._hurried.wait()
            self._hurried.clear()
            # If the call has ended meanwhile, its answers say how.
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                async with self._writing:
                    await self._tell()

    async def _tell(self) -> None:
        if (urgency := self._urgency()) < self._told and not self._all_served.is_set():
            self._told = urgency
            await self._call.write(agent_pb2.FillRequest(priority=urgency))

    async def _answers(self, group: asyncio.TaskGroup) -> None:
        async for answer in self._call:
            match answer.WhichOneof("response"):
                case "done":
                    self._all_served.set()
                    return
                case "wanted":
                    self._wanted(group, answer.wanted)
                case "corrupt":
                    self._retry(group, answer.corrupt.chunks)
                case _:
                    self._released(answer.released)
        raise CorruptObject(f"the agent ended {self._key.name} without having finished it")

    def _wanted(self, group: asyncio.TaskGroup, wanted: agent_pb2.WantedChunks) -> None:
        self.linked = wanted.linked
        data = self._content.data
        try:
            self.remaining = sum(data[index].stored for index in wanted.chunks)
        except IndexError:
            raise CorruptObject(f"{self._key.name}: its tree has chunks that it lacks") from None
        self.stored = self.remaining + sum(chunk.stored for chunk in self._content.tree)
        self._add(group, wanted.chunks)

    def _released(self, path: str) -> None:
        staged = self._staged.pop(path)
        staged.released()
        laid_out = sum(chunk.stored for chunk in staged.plan.chunks)
        self.remaining = max(self.remaining - laid_out, 0)
        self._outstanding -= 1
        if not self._outstanding:
            self._all_served.set()

    def _retry(self, group: asyncio.TaskGroup, chunks: Sequence[int]) -> None:
        again = set(chunks)
        if twice := again & self._retried:
            for index in twice:
                self._downloads.losses.corrupt(self._content.data[index])
            raise CorruptObject(f"{self._key.name}: chunks are corrupt in the store")
        self._retried |= again
        self._add(group, sorted(again))


def _unlink(paths: Iterable[str]) -> None:
    for path in paths:
        Path(path).unlink(missing_ok=True)
