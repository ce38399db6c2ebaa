"""Putting a generation's snapshots and blobs on disk: demands first, the rest ahead of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path

import grpc.aio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.errors import BuildsvcError, CorruptObject
from sidecar.agentclient import AgentClient
from sidecar.download import Downloads
from sidecar.failures import cause
from sidecar.plan import Content, ObjectKey, Plan
from sidecar.segments import SegmentPlan, cut
from sidecar.status import Status
from sidecar.timeline import Kind, Span

#: Objects that are prefetched at the same time: enough to overlap one's last worker with
#: the next one's first download.
_OPEN_PREFETCHES = 3
#: How one object cannot be had: the store or its bytes, the local disk, the agent. The last
#: is gRPC's for a write to a call that ended while the segment was downloaded.
_FAILURES = (BuildsvcError, OSError, grpc.aio.AioRpcError, asyncio.InvalidStateError)


class Urgency(IntEnum):
    """Why an object is fetched, the most urgent first."""

    DEMAND = 0
    TRACE = 1
    REST = 2


class _Object:
    """One snapshot or blob of the generation and how far it is."""

    __slots__ = ("content", "done", "key", "span", "task", "urgency")

    def __init__(self, key: ObjectKey, content: Content) -> None:
        self.key = key
        self.content = content
        self.urgency = Urgency.REST
        self.task: asyncio.Task[None] | None = None
        self.span: Span | None = None
        self.done = False

    @property
    def failed(self) -> bool:
        """Whether it was tried and could not be had."""
        return self.task is not None and self.task.done() and not self.done

    @property
    def why(self) -> str:
        """The urgency in the status' words; a prefetch that was demanded counts as a demand."""
        return self.urgency.name.lower()


class Restorer:
    """Fetches the objects of one plan into one agent.

    Prefetching follows the trace of the last build from the first moment. What no trace
    names is fetched only while no build runs: during one it would take the processor
    from the build. A demand is served before everything else; one that is not served
    within ``demand_timeout`` seconds, or cannot be, ends in ``on_lost`` with the reason,
    because buildkitd's database then names something that cannot be had.
    """

    def __init__(
        self,
        agent: AgentClient,
        downloads: Downloads,
        plan: Plan,
        status: Status,
        *,
        demand_timeout: float,
        on_lost: Callable[[str], None],
    ) -> None:
        self._agent = agent
        self._downloads = downloads
        self._status = status
        self._demand_timeout = demand_timeout
        self._on_lost = on_lost
        self._objects = {key: _Object(key, content) for key, content in plan.contents.items()}
        traced = plan.traced()
        for key in traced:
            self._objects[key].urgency = Urgency.TRACE
        self._trace = deque(traced)
        self._rest = deque(plan.rest(traced))
        self._wake = asyncio.Event()
        self._calm = True
        self._tasks: asyncio.TaskGroup | None = None
        self._open = 0

    def demand(self, key: ObjectKey) -> None:
        """buildkitd waits for the object."""
        wanted = self._objects.get(key)
        if wanted is None:
            self._on_lost(f"{key.name} is asked for but not part of the restored generation")
            return
        if wanted.done:
            return
        wanted.urgency = Urgency.DEMAND
        if wanted.span is not None:
            # A prefetch under way: whoever looks now sees what the build waits for.
            wanted.span.note(why=wanted.why)
        self._start(wanted)
        if self._tasks is not None:
            self._tasks.create_task(self._watch_demand(wanted), name=f"demand {key.name}")

    def build_runs(self, *, running: bool) -> None:
        """Hold back what no trace names while a build runs."""
        self._calm = not running
        self._wake.set()

    async def run(self) -> None:
        """Prefetch and serve demands until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                self._prefetch()
                self._wake.clear()
                await self._wake.wait()

    async def complete(self, wanted: Callable[[ObjectKey], bool]) -> None:
        """Put every object that is ``wanted`` on disk, before the daemon starts.

        Raises:
            CorruptObject: one of them cannot be had.
        """
        chosen = [item for key, item in self._objects.items() if wanted(key)]
        try:
            async with asyncio.TaskGroup() as self._tasks:
                for item in chosen:
                    self._start(item)
                while not all(item.done for item in chosen):
                    self._wake.clear()
                    await self._wake.wait()
                    if failed := [item for item in chosen if item.failed]:
                        raise CorruptObject(f"{failed[0].key.name} could not be restored")
        except ExceptionGroup as failures:
            raise cause(failures, _FAILURES) from None
        finally:
            self._tasks = None

    def _prefetch(self) -> None:
        while self._open < _OPEN_PREFETCHES:
            queue = self._trace or (self._rest if self._calm else None)
            if not queue:
                return
            self._start(self._objects[queue.popleft()])

    def _start(self, item: _Object) -> None:
        running = item.task is not None and not item.task.done()
        if item.done or running or self._tasks is None:
            return
        self._open += 1
        item.task = self._tasks.create_task(self._fetch(item), name=f"fetch {item.key.name}")

    async def _watch_demand(self, item: _Object) -> None:
        """Give up the root when a demand takes too long."""
        assert item.task is not None
        await asyncio.wait([item.task], timeout=self._demand_timeout)
        if not item.done:
            ended = item.task.done()
            reason = "could not be fetched" if ended else f"took over {self._demand_timeout:g} s"
            self._on_lost(f"demanded object {item.key.name} {reason}")

    async def _fetch(self, item: _Object) -> None:
        what = "blob" if item.key.is_blob else "snapshot"
        span = self._status.begin(Kind.FETCH, item.key.name, object=what, why=item.why)
        item.span = span
        fill = _Fill(self._agent, self._downloads, item.key, item.content, lambda: item.urgency)
        try:
            await fill.run()
            item.done = True
            span.end("ok", why=item.why, bytes=item.content.stored)
        except grpc.aio.AioRpcError as failure:
            self._status.failed(failure)
            span.end("failed", why=item.why, error=failure.details() or failure.code().name)
        except _FAILURES as failure:
            self._status.failed(failure)
            span.end("failed", why=item.why, error=str(failure))
        finally:
            self._open -= 1
            span.end("cancelled")
            self._wake.set()


class _Fill:
    """One object's way to the disk: tree, segments, and a second try for corrupt chunks."""

    def __init__(
        self,
        agent: AgentClient,
        downloads: Downloads,
        key: ObjectKey,
        content: Content,
        urgency: Callable[[], int],
    ) -> None:
        self._agent = agent
        self._downloads = downloads
        self._key = key
        self._content = content
        self._urgency = urgency
        self._retried: set[int] = set()
        self._tree = ""
        self._staged: dict[str, SegmentPlan] = {}
        self._outstanding = 0
        self._all_served = asyncio.Event()
        # gRPC takes one write at a time.
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Fetch and lay out the object.

        Raises:
            CorruptObject: a chunk was corrupt twice.
            StoreError: the store does not have it or does not answer.
            AioRpcError: the agent is gone or refused it.
        """
        if self._content.tree:
            path = await self._downloads.content_file(self._content.tree, self._urgency)
            self._tree = str(path)
        try:
            await self._fill()
        finally:
            for plan in self._staged.values():
                self._downloads.released(plan)
            # What the agent is done with it has deleted itself.
            await asyncio.to_thread(_unlink, [*self._staged, self._tree])

    async def _fill(self) -> None:
        self._call = self._agent.fill()
        header = agent_pb2.FillHeader(
            object=self._key.to_proto(), tree_path=self._tree, priority=self._urgency()
        )
        await self._call.write(agent_pb2.FillRequest(header=header))
        try:
            async with asyncio.TaskGroup() as group:
                answers = group.create_task(self._answers(group))
                self._add(group, list(cut(enumerate(self._content.data))))
                await self._all_served.wait()
                await self._call.done_writing()
                await answers
        except ExceptionGroup as failures:
            raise cause(failures, _FAILURES) from None
        finally:
            self._call.cancel()

    def _add(self, group: asyncio.TaskGroup, plans: Sequence[SegmentPlan]) -> None:
        self._outstanding += len(plans)
        for plan in plans:
            group.create_task(self._send(plan))
        if not self._outstanding:
            self._all_served.set()

    async def _send(self, plan: SegmentPlan) -> None:
        path: Path = await self._downloads.segment(plan, self._urgency)
        self._staged[str(path)] = plan
        async with self._writing:
            await self._call.write(agent_pb2.FillRequest(segment=plan.staged(path)))

    async def _answers(self, group: asyncio.TaskGroup) -> None:
        async for answer in self._call:
            kind = answer.WhichOneof("response")
            if kind == "done":
                return
            if kind == "corrupt":
                self._retry(group, answer.corrupt.chunks)
            else:
                self._downloads.released(self._staged.pop(answer.released))
                self._outstanding -= 1
                if not self._outstanding:
                    self._all_served.set()
        raise CorruptObject(f"the agent ended {self._key.name} without having finished it")

    def _retry(self, group: asyncio.TaskGroup, chunks: Sequence[int]) -> None:
        again = set(chunks)
        if again & self._retried:
            raise CorruptObject(f"{self._key.name}: chunks are corrupt in the store")
        self._retried |= again
        self._add(group, list(cut((i, self._content.data[i]) for i in sorted(again))))


def _unlink(paths: Sequence[str]) -> None:
    for path in filter(None, paths):
        Path(path).unlink(missing_ok=True)
