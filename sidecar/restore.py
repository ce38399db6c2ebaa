"""Putting a generation's snapshots and blobs on disk: demands first, the rest ahead of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container

import grpc.aio

from buildsvc.errors import CorruptObject
from sidecar.agentclient import AgentClient
from sidecar.download import Downloads
from sidecar.fill import FAILURES, Fill
from sidecar.plan import Content, ObjectKey, Plan
from sidecar.slots import Urgency
from sidecar.status import Status
from sidecar.timeline import Kind, Span

#: Objects that are prefetched at the same time: enough to overlap one's last worker with
#: the next one's first download. The staging directory bounds their bytes.
_OPEN_PREFETCHES = 6
#: Part of the time for a demand that is spent at most on waiting for a sibling's files.
_SIBLINGS_PART = 0.25
#: Seconds after a build or a publication in which no other one comes: most pods end there.
_QUIET = 3.0


class _Object:
    """One snapshot or blob of the generation and how far it is."""

    __slots__ = (
        "content", "demanded", "done", "fill", "key", "removed", "sibling", "span", "task",
        "urgency",
    )  # fmt: skip

    def __init__(self, key: ObjectKey, content: Content) -> None:
        self.key = key
        self.content = content
        self.urgency = Urgency.REST
        self.task: asyncio.Task[None] | None = None
        self.span: Span | None = None
        self.fill: Fill | None = None
        self.done = False
        #: Whether the daemon did not want it any more when it was fetched.
        self.removed = False
        #: What it is linked from, if it was there or under way when this one was started.
        self.sibling: _Object | None = None
        self.demanded = asyncio.Event()

    @property
    def running(self) -> bool:
        """Whether it is being fetched, or waits for its sibling."""
        return self.task is not None and not self.task.done()

    @property
    def remaining(self) -> int:
        """Stored bytes still to be fetched."""
        return self.content.stored if self.fill is None else self.fill.remaining

    def hurry(self, urgency: Urgency) -> None:
        """Make it at least so urgent, and what it waits for too."""
        self.urgency = min(self.urgency, urgency)
        if self.urgency is Urgency.DEMAND:
            self.demanded.set()
            if self.span is not None:
                # A prefetch under way: whoever looks now sees what the build waits for.
                self.span.note(why=self.why)
        sibling = self.sibling
        # A demand does not wait for a sibling that takes longer than itself.
        if (
            sibling is not None
            and sibling.urgency > urgency
            and (urgency is not Urgency.DEMAND or self.waits_for(sibling))
        ):
            sibling.hurry(urgency)
        if self.fill is not None:
            self.fill.hurry()

    def waits_for(self, sibling: _Object) -> bool:
        """Whether a sibling that is being fetched will be there before this could be."""
        return sibling.remaining <= self.content.stored

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

    Prefetching follows the trace of the last build from the first moment: what is downloaded
    before the agent has ``loaded`` the generation waits in the staging directory. What no trace
    names is fetched only while neither a build nor a publication runs, nor has just ended: it
    would take processor and link from them; what is under way then stops at its next segment. A
    demand is served before everything else; one that is not served within ``demand_timeout``
    seconds, or cannot be, ends in ``on_lost`` with the reason, because buildkitd's database then
    names something that cannot be had.

    Of two snapshots with largely the same files, one is fetched; the other waits for it and
    becomes links of it. Nothing waits for what was started later, so nothing waits for itself.
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
        room: Callable[[int], bool] = lambda _: True,
        quiet: float = _QUIET,
    ) -> None:
        """``room``: whether so many bytes that nobody has asked for may be put on disk.

        ``quiet``: seconds after ``hold`` has ended until what no trace names is fetched again.
        """
        self._agent = agent
        self._downloads = downloads
        self._status = status
        self._demand_timeout = demand_timeout
        self._on_lost = on_lost
        self._room = room
        self._objects = {key: _Object(key, content) for key, content in plan.contents.items()}
        self._plan = plan
        self._siblings = plan.siblings
        self._linked_from = {other for others in plan.siblings.values() for other in others}
        traced = plan.traced()
        for key in traced:
            self._objects[key].urgency = Urgency.TRACE
        self._trace = deque(traced)
        self._rest = deque(plan.rest(traced))
        self._wake = asyncio.Event()
        self._calm = True
        self._quiet = quiet
        self._calming: asyncio.TimerHandle | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._running = asyncio.Event()
        self._loaded = asyncio.Event()
        self._under_way: set[_Object] = set()
        self._open = 0
        self._out_of_room = False
        #: What was needed and could not be had.
        self.given_up: ObjectKey | None = None

    def loaded(self) -> None:
        """The agent knows the generation: what is downloaded can be laid out."""
        self._loaded.set()

    def demand(self, key: ObjectKey) -> None:
        """buildkitd waits for the object."""
        wanted = self._objects.get(key)
        if wanted is None:
            self._on_lost(f"{key.name} is asked for but not part of the restored generation")
            return
        if wanted.done:
            return
        self._hurry(wanted, Urgency.DEMAND)
        self._start(wanted)
        if self._tasks is not None:
            self._tasks.create_task(self._watch_demand(wanted), name=f"demand {key.name}")

    def has(self, key: ObjectKey) -> bool:
        """Whether the object is on disk."""
        return key in self._objects and self._objects[key].done

    def skip(self, keys: Container[ObjectKey]) -> None:
        """Do not prefetch these any more; a demand still gets them."""
        self._trace = deque(key for key in self._trace if key not in keys)
        self._rest = deque(key for key in self._rest if key not in keys)

    def hold(self, *, held: bool) -> None:
        """Hold back what no trace names: a build or a publication runs."""
        if self._calming is not None:
            self._calming.cancel()
        if held:
            self._calm = False
            self._downloads.hold_rest(held=True)
        elif not self._calm:
            self._calming = asyncio.get_running_loop().call_later(self._quiet, self._be_calm)

    def _be_calm(self) -> None:
        self._calm = True
        self._downloads.hold_rest(held=False)
        self._wake.set()

    async def run(self) -> None:
        """Prefetch and serve demands until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._running.set()
            while True:
                self._prefetch()
                self._status.to_prefetch(len(self._trace) + len(self._rest) + len(self._under_way))
                self._wake.clear()
                await self._wake.wait()

    async def complete(self, wanted: Callable[[ObjectKey], bool]) -> None:
        """Return when every object that is ``wanted`` is on disk; while ``run`` runs.

        Raises:
            CorruptObject: one of them cannot be had. Where the store has lost it, that is said
                when all others have been tried, so that everything that is lost is known.
        """
        chosen = [item for key, item in self._objects.items() if wanted(key)]
        await self._running.wait()
        for item in chosen:
            # Not after what may never be needed.
            item.hurry(Urgency.TRACE)
            self._start(item)
        self._downloads.hurry()
        while not all(item.done for item in chosen):
            failed = [item for item in chosen if item.failed]
            unknown = [item for item in failed if not self._lacks(item)]
            if failed and (unknown or all(item.done or item.failed for item in chosen)):
                self.given_up = (unknown or failed)[0].key
                raise CorruptObject(f"{self.given_up.name} could not be restored")
            self._wake.clear()
            await self._wake.wait()

    def _hurry(self, item: _Object, urgency: Urgency) -> None:
        item.hurry(urgency)
        self._downloads.hurry()

    def _lacks(self, item: _Object) -> bool:
        return self._plan.lacks(item.key, self._downloads.losses)

    def _prefetch(self) -> None:
        while self._open < _OPEN_PREFETCHES:
            queue = self._trace or (self._rest if self._calm else None)
            if not queue:
                return
            if self._objects[queue[0]].done or self._objects[queue[0]].running:
                # Demanded meanwhile: it needs no more room.
                queue.popleft()
                continue
            coming = (*self._under_way, self._objects[queue[0]])
            if not self._room(sum(item.content.needed for item in coming)):
                # Of those under way one may yet be given up.
                if len(coming) == 1 and not self._out_of_room:
                    self._out_of_room = True
                    self._status.count("prefetch_stopped")
                return
            self._start(self._objects[queue.popleft()])

    def _start(self, item: _Object) -> None:
        if item.done or item.running or self._tasks is None:
            return
        self._open += 1
        item.removed = False
        others = [self._objects[key] for key in self._siblings.get(item.key, ())]
        local = (other for other in others if other.done)
        item.sibling = next(local, next((other for other in others if other.running), None))
        if item.sibling is not None:
            self._hurry(item, item.urgency)
        # The fetch as it is now: another one, after a failure, might wait for this object.
        arrival = None if item.sibling is None else item.sibling.task
        fetch = self._fetch(item, arrival)
        self._under_way.add(item)
        item.task = self._tasks.create_task(fetch, name=f"fetch {item.key.name}")

    async def _watch_demand(self, item: _Object) -> None:
        """Give up the root when a demand takes too long.

        A mount demands a whole chain at once. A layer's own time begins with its first bytes,
        as long as those before it move; for a blob the kernel's clock runs from the start.
        """
        assert item.task is not None
        now = asyncio.get_running_loop().time
        deadline = now() + self._demand_timeout
        while not item.task.done() and now() < deadline:
            finished = self._downloads.finished
            await asyncio.wait([item.task], timeout=deadline - now())
            began = item.fill.began if item.fill is not None else None
            if item.key.is_blob:
                continue
            if began is not None:
                deadline = max(deadline, began + self._demand_timeout)
            elif self._downloads.finished != finished:
                deadline = now() + self._demand_timeout
        # Whoever asked for what is removed does not wait any more.
        if item.done or item.removed:
            return
        ended = item.task.done()
        reason = "could not be fetched" if ended else f"took over {self._demand_timeout:g} s"
        if item.key.is_blob or await self._told(item, reason):
            self.given_up = item.key
            self._on_lost(f"demanded object {item.key.name} {reason}")

    async def _told(self, item: _Object, reason: str) -> bool:
        """Tell a build that waits for a mount why, before its daemon goes; is there one still?"""
        try:
            return await self._agent.fail(item.key.to_proto(), reason)
        except grpc.aio.AioRpcError:
            return True

    async def _sibling_ready(self, item: _Object, fetch: asyncio.Task[None] | None) -> str:
        """Wait for the sibling; its name, empty if the object is to be fetched on its own."""
        sibling = item.sibling
        if sibling is None or fetch is None:
            return ""
        if not fetch.done():
            # It takes nobody's place meanwhile.
            self._open -= 1
            self._wake.set()
            try:
                await self._arrival(sibling, fetch, item)
            finally:
                self._open += 1
        item.sibling = None
        return sibling.key.name if sibling.done else ""

    async def _arrival(self, sibling: _Object, fetch: asyncio.Task[None], item: _Object) -> None:
        """Return when the sibling's fetch has ended, or it is quicker to fetch the object."""
        demanded = asyncio.ensure_future(item.demanded.wait())
        try:
            await asyncio.wait([fetch, demanded], return_when=asyncio.FIRST_COMPLETED)
        finally:
            demanded.cancel()
        if not fetch.done() and item.waits_for(sibling):
            # It may not have been so when the demand came.
            self._hurry(item, item.urgency)
            await asyncio.wait([fetch], timeout=_SIBLINGS_PART * self._demand_timeout)

    async def _fetch(self, item: _Object, arrival: asyncio.Task[None] | None) -> None:
        what = "blob" if item.key.is_blob else "snapshot"
        span = self._status.begin(Kind.FETCH, item.key.name, object=what, why=item.why)
        item.span = span
        try:
            sibling = await self._sibling_ready(item, arrival)
            item.fill = fill = Fill(
                self._agent,
                self._downloads,
                item.key,
                item.content,
                lambda: item.urgency,
                loaded=self._loaded,
                link_from=sibling,
                keep_tree=item.key in self._linked_from,
            )
            await fill.run()
            item.done = True
            span.end("ok", why=item.why, bytes=fill.stored, linked=fill.linked)
        except grpc.aio.AioRpcError as failure:
            item.removed = failure.code() is grpc.StatusCode.NOT_FOUND
            self._status.failed(failure)
            span.end("failed", why=item.why, error=failure.details() or failure.code().name)
        except FAILURES as failure:
            self._status.failed(failure)
            span.end("failed", why=item.why, error=str(failure))
        finally:
            item.fill = None
            self._under_way.discard(item)
            self._open -= 1
            span.end("cancelled")
            self._wake.set()
