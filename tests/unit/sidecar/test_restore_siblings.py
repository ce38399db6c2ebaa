"""Who waits for whom when two snapshots have the same files; against a scripted agent and store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.roots import Location
from buildsvc.errors import StoreError
from sidecar.agentclient import AgentClient
from sidecar.download import Downloads, Staged
from sidecar.plan import ObjectKey, Plan
from sidecar.restore import Restorer
from sidecar.segments import SegmentPlan
from sidecar.slots import AskUrgency, Urgency
from sidecar.status import Status

MB = 1 << 20
A, B, C = map(ObjectKey.snapshot, "abc")


class Call:
    """One Fill call: answers as an agent does that links everything it can."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._answers: asyncio.Queue[agent_pb2.FillResponse | None] = asyncio.Queue()
        self._missing = 0
        self.header = agent_pb2.FillHeader()
        self.priorities: list[int] = []
        self.chunks: set[int] = set()

    async def write(self, request: agent_pb2.FillRequest) -> None:
        match request.WhichOneof("request"):
            case "header":
                self._begin(request.header)
            case "priority":
                self.priorities.append(request.priority)
            case "segment":
                chunks = {staged.chunk for staged in request.segment.chunks}
                self.chunks |= chunks
                self._missing -= len(chunks)
                self._answer(agent_pb2.FillResponse(released=request.segment.path))
                self._done()

    def _begin(self, header: agent_pb2.FillHeader) -> None:
        self.header = header
        self._missing = self._agent.sizes[header.object.name]
        if header.link_from:
            wanted = list(range(self._missing))
            if header.link_from in self._agent.local:
                wanted = wanted[: self._agent.unlinkable]
            self._missing = len(wanted)
            told = agent_pb2.WantedChunks(chunks=wanted, linked=7)
            self._answer(agent_pb2.FillResponse(wanted=told))
        self._done()

    def _done(self) -> None:
        if not self._missing:
            self._agent.local.add(self.header.object.name)
            self._agent.changed.set()
            self._answer(agent_pb2.FillResponse(done=agent_pb2.FillDone()))

    def _answer(self, answer: agent_pb2.FillResponse) -> None:
        self._answers.put_nowait(answer)

    async def __aiter__(self) -> AsyncIterator[agent_pb2.FillResponse]:
        while (answer := await self._answers.get()) is not None:
            yield answer

    async def done_writing(self) -> None: ...

    def cancel(self) -> None:
        self._answers.put_nowait(None)


class Agent:
    """Takes Fill calls; `unlinkable` chunks are wanted all the same."""

    def __init__(self, root: cache_pb2.Root) -> None:
        self.sizes = {each.info.name: len(each.tree.data) for each in root.snapshots}
        self.calls: list[Call] = []
        self.local: set[str] = set()
        self.changed = asyncio.Event()
        self.unlinkable = 0

    def fill(self) -> Call:
        self.calls.append(Call(self))
        return self.calls[-1]

    def headers(self) -> list[tuple[str, str]]:
        return [(call.header.object.name, call.header.link_from) for call in self.calls]


class Store:
    """Downloads that wait until a test lets them go, object by object."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.gates: dict[bytes, asyncio.Event] = {}
        self.begun = asyncio.Event()
        self.broken: set[bytes] = set()
        self.urgencies: list[AskUrgency] = []
        self.finished = 0

    async def segment(self, plan: SegmentPlan, urgency: AskUrgency) -> Staged:
        pack = bytes.fromhex(plan.ranges[0].name.rpartition("/")[2])
        self.urgencies.append(urgency)
        self.begun.set()
        if pack in self.gates:
            await self.gates[pack].wait()
        if pack in self.broken:
            self.broken.discard(pack)
            raise StoreError("the store is broken")
        path = self._directory / f"{plan.chunks[0].chunk}-{pack.hex()}"
        return Staged(plan, path, lambda: None)

    @asynccontextmanager
    async def tree(self, locations: Iterable[Location], urgency: AskUrgency) -> AsyncIterator[Path]:  # noqa: ARG002
        yield self._directory / "tree"

    def hurry(self) -> None: ...

    def hold_rest(self, *, held: bool) -> None: ...


class Scene:
    """Two snapshots with the same `shared` chunks, each behind its own gate; and a larger one."""

    def __init__(self, directory: Path, used: str = "ab", extra: int = 0) -> None:
        root = cache_pb2.Root(trace=cache_pb2.Trace(used=used))
        for pack in b"t", b"a", b"b":
            root.packs.add(digest=pack * 32, size=1 << 40)
        self.root = root
        tree = self._chunk(0)
        shared = [self._chunk(1) for _ in range(4)]
        own = [self._chunk(1) for _ in range(extra)]
        for name, data in (("a", shared + own), ("b", shared)):
            info = cache_pb2.SnapshotInfo(name=name, kind=cache_pb2.SNAPSHOT_KIND_COMMITTED)
            root.snapshots.add(info=info, tree=cache_pb2.TreeRef(tree=[tree], data=data))
        self.agent = Agent(root)
        self.store = Store(directory)
        self.gate = self.store.gates[b"a" * 32] = asyncio.Event()
        self.status = Status()
        self.lost: list[str] = []
        self.plan = Plan(root)
        self.restorer = Restorer(
            cast("AgentClient", self.agent),
            cast("Downloads", self.store),
            self.plan,
            self.status,
            demand_timeout=60,
            on_lost=self.lost.append,
            quiet=0.0,
        )
        self.restorer.loaded()

    def _chunk(self, pack: int) -> int:
        number = len(self.root.chunk_packs)
        self.root.chunk_digests += bytes([number]) * 32
        self.root.chunk_packs.append(pack)
        self.root.chunk_offsets.append(number * 4 * MB)
        self.root.chunk_stored.append(4 * MB)
        self.root.chunk_lengths.append(4 * MB)
        return number

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.restorer.run())
        try:
            async with asyncio.timeout(20):
                yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def until_local(self, *keys: ObjectKey) -> None:
        while not self.agent.local >= {key.name for key in keys}:
            self.agent.changed.clear()
            await self.agent.changed.wait()

    async def turns(self) -> None:
        """Let everything happen that can happen now."""
        for _ in range(50):
            await asyncio.sleep(0.001)


async def test_one_is_fetched_and_the_other_linked(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    async with scene.running():
        await scene.turns()
        assert scene.agent.headers() == [("a", "")]
        scene.gate.set()
        await scene.until_local(A, B)
        await scene.turns()
    first, second = scene.agent.calls
    assert first.header.keep_tree
    assert (second.header.link_from, second.chunks) == ("a", set())
    fetched = {span["name"]: span["bytes"] for span in _fetches(scene)}
    # The tree of each, and the content once.
    assert fetched == {"a": 5 * 4 * MB, "b": 4 * MB}


def _fetches(scene: Scene) -> list[dict[str, object]]:
    spans = cast("list[dict[str, object]]", scene.status.snapshot()["timeline"])
    return [{**span, **cast("dict[str, object]", span.get("attributes", {}))} for span in spans]


async def test_only_the_chunks_that_are_wanted_are_fetched(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.agent.unlinkable = 2
    scene.gate.set()
    async with scene.running():
        await scene.until_local(A, B)
    assert [call.chunks for call in scene.agent.calls] == [{0, 1, 2, 3}, {0, 1}]


async def test_a_sibling_that_fails_is_not_waited_for(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.store.broken = {b"a" * 32}
    async with scene.running():
        await scene.turns()
        scene.gate.set()
        await scene.until_local(B)
    assert scene.agent.headers() == [("a", ""), ("b", "")]
    assert scene.agent.calls[1].chunks == {0, 1, 2, 3}


async def test_a_demand_hurries_what_it_waits_for(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    async with scene.running():
        await scene.turns()
        assert {urgency() for urgency in scene.store.urgencies} == {Urgency.TRACE}
        scene.restorer.demand(B)
        await scene.turns()
        assert {urgency() for urgency in scene.store.urgencies} == {Urgency.DEMAND}
        # It may have all segments already, and work on others first.
        assert scene.agent.calls[0].priorities == [0]
        scene.gate.set()
        await scene.until_local(B)
    assert scene.agent.headers() == [("a", ""), ("b", "a")]
    assert not scene.lost


async def test_a_demand_does_not_wait_for_what_takes_longer_than_itself(tmp_path: Path) -> None:
    scene = Scene(tmp_path, extra=30)
    async with scene.running():
        await scene.turns()
        assert scene.agent.headers() == [("a", "")]
        before = list(scene.store.urgencies)
        scene.restorer.demand(B)
        await scene.turns()
        assert scene.agent.headers() == [("a", ""), ("b", "")]
        assert {urgency() for urgency in before} == {Urgency.TRACE}
        scene.gate.set()
        await scene.until_local(A, B)


async def test_what_is_demanded_first_is_fetched_and_the_other_linked_later(
    tmp_path: Path,
) -> None:
    scene = Scene(tmp_path, used="")
    scene.restorer.hold(held=True)
    async with scene.running():
        await scene.turns()
        scene.restorer.demand(B)
        scene.gate.set()
        await scene.until_local(B)
        scene.restorer.hold(held=False)
        await scene.until_local(A)
    assert scene.agent.headers() == [("b", ""), ("a", "b")]


async def test_two_that_fail_in_turn_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A fails while B waits for it; A is demanded again at that moment and finds B under way."""
    scene = Scene(tmp_path)
    async with scene.running():
        await scene.turns()
        scene.store.broken = {b"a" * 32}
        failed = next(iter(scene.store.gates.values()))
        fetch = next(t for t in asyncio.all_tasks() if t.get_name() == "fetch a")
        fetch.add_done_callback(lambda _: scene.restorer.demand(A))
        failed.set()
        await scene.until_local(A, B)
    assert not scene.lost


@pytest.mark.parametrize("local", [True, False])
async def test_complete_restores_both(tmp_path: Path, local: bool) -> None:  # noqa: FBT001
    scene = Scene(tmp_path)
    if local:
        scene.agent.unlinkable = 4
    scene.gate.set()
    running = asyncio.create_task(scene.restorer.run())
    async with asyncio.timeout(20):
        await scene.restorer.complete(lambda _: True)
    running.cancel()
    await asyncio.wait([running])
    assert scene.agent.headers() == [("a", ""), ("b", "a")]
