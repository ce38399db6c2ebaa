"""The restorer against an agent behind the real API and a real store that fails on demand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.packs import pack_name
from buildsvc.cache.roots import Location
from buildsvc.errors import CorruptObject
from buildsvc.store.contract import Store
from buildsvc.store.faults import Fail, FaultyStore, Hold, Rule
from buildsvc.store.local import LocalStore
from sidecar.download import Downloads, Staged
from sidecar.losses import Losses
from sidecar.plan import ObjectKey, Plan
from sidecar.restore import Restorer
from sidecar.segments import SegmentPlan
from sidecar.slots import AskUrgency, Slots
from sidecar.status import Status
from sidecar.timeline import Kind
from tests.unit.sidecar.fakeagent import FakeAgent, connected, generation

SNAPSHOTS = {"a": b"A" * 1000, "b<a": b"B" * 2000, "c": b"C" * 3000, "d": b"D" * 4000}
BLOB = "sha256:" + "cd" * 32
FOREVER = 30.0


class WatchedDownloads(Downloads):
    """Tells of each segment that has been downloaded, and how many bytes were staged at most."""

    def __init__(
        self, store: Store, staging: Path, slots: Slots, *, trees: Slots, losses: Losses
    ) -> None:
        super().__init__(store, staging, slots, trees=trees, losses=losses)
        self.segments: asyncio.Queue[Path] = asyncio.Queue()
        self.most_staged = 0

    async def segment(self, plan: SegmentPlan, urgency: AskUrgency) -> Staged:
        await self._look()
        staged = await super().segment(plan, urgency)
        self.segments.put_nowait(staged.path)
        return staged

    @asynccontextmanager
    async def tree(self, locations: Sequence[Location], urgency: AskUrgency) -> AsyncIterator[Path]:
        async with super().tree(locations, urgency) as path:
            await self._look()
            yield path

    async def _look(self) -> None:
        self.most_staged = max(self.most_staged, await asyncio.to_thread(_bytes, self._staging))


def _bytes(directory: Path) -> int:
    size = 0
    for file in directory.iterdir():
        with suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


class Scene:
    """A restorer and all that is around it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.agent = FakeAgent()
        self.status = Status()
        self.lost: asyncio.Queue[str] = asyncio.Queue()
        self.slots, self.trees = Slots(4, 1 << 21, 1 << 20), Slots(4, 1 << 21, 1 << 20)
        self.demand_timeout = FOREVER
        self.script: Sequence[Rule] = ()
        self.root = cache_pb2.Root()
        self.room: Callable[[int], bool] = lambda _: True
        self.quiet = 0.0

    async def publish(
        self, used: tuple[str, ...] = (), snapshots: Mapping[str, bytes] = SNAPSHOTS
    ) -> None:
        store = LocalStore(self.directory / "store")
        packs = self.directory / "packs"
        packs.mkdir()
        self.root = await generation(store, packs, snapshots, {BLOB: b"blob" * 100}, used)
        await store.close()

    def pack_of(self, name: str) -> str:
        """The store's name of the pack that an object's data lies in."""
        plan = Plan(self.root)
        key = ObjectKey.blob(name) if ":" in name else ObjectKey.snapshot(name)
        return pack_name(plan.contents[key].data[0].pack)

    @asynccontextmanager
    async def restorer(self, *, loaded: bool = True) -> AsyncIterator[Restorer]:
        down = self.directory / "down"
        down.mkdir()
        store = FaultyStore(LocalStore(self.directory / "store"), self.script)
        self.downloads = WatchedDownloads(
            store, down, self.slots, trees=self.trees, losses=Losses()
        )
        async with connected(self.agent, self.directory) as client:
            restorer = Restorer(
                client,
                self.downloads,
                Plan(self.root),
                self.status,
                demand_timeout=self.demand_timeout,
                on_lost=self.lost.put_nowait,
                room=self.room,
                quiet=self.quiet,
            )
            if loaded:
                restorer.loaded()
            yield restorer
        await store.close()
        # Whatever happened, nothing stays staged.
        assert list(down.iterdir()) == []
        assert (self.slots.staged, self.trees.staged) == (0, 0)

    @asynccontextmanager
    async def running(self, *, calm: bool = True) -> AsyncIterator[Restorer]:
        async with self.restorer() as restorer:
            restorer.hold(held=not calm)
            task = asyncio.create_task(restorer.run())
            await asyncio.sleep(0)
            try:
                yield restorer
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def fetched(self, count: int) -> None:
        """Wait until so many fetches have ended, well or not."""
        await self.status.until(lambda status: len(self.ended(status)) >= count)

    @staticmethod
    def ended(status: Status) -> list[str]:
        spans = (s for s in status.timeline if s.kind is Kind.FETCH and s.finish is not None)
        return [f"{span.name}: {span.outcome}" for span in spans]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_everything_is_prefetched_with_its_bytes(scene: Scene) -> None:
    await scene.publish()
    async with scene.running():
        await scene.fetched(5)
    expected = {name.partition("<")[0]: content for name, content in SNAPSHOTS.items()}
    assert scene.agent.filled == {**expected, BLOB: b"blob" * 100}
    assert scene.lost.empty()


@pytest.mark.parametrize("fails", [False, True])
async def test_it_is_told_when_nothing_is_left_to_prefetch(scene: Scene, *, fails: bool) -> None:
    await scene.publish()
    if fails:
        scene.agent.refused.add("c")
    scene.agent.held["a"] = asyncio.Event()
    async with scene.running():
        await scene.status.until(lambda status: status.counts.objects()["left"] == 1)
        scene.agent.held["a"].set()
        await scene.status.until(lambda status: status.counts.objects()["left"] == 0)
    assert "a: ok" in scene.ended(scene.status)


async def test_the_trace_goes_first_and_the_rest_waits_for_the_build(scene: Scene) -> None:
    await scene.publish(used=("b",))
    async with scene.restorer() as restorer:
        restorer.hold(held=True)
        task = asyncio.create_task(restorer.run())
        await scene.fetched(2)
        # They overlap, so either may begin first.
        assert sorted(scene.agent.order) == ["a", "b"]
        restorer.hold(held=False)
        await scene.fetched(5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert scene.status.counts.family("fetched_objects") == {"trace": 2, "rest": 3}


async def test_the_rest_waits_for_the_publication_after_a_build(scene: Scene) -> None:
    await scene.publish(used=("b",))
    scene.quiet = 3600.0
    async with scene.running(calm=False) as restorer:
        await scene.fetched(2)
        restorer.hold(held=False)
        restorer.demand(ObjectKey.snapshot("d"))
        await scene.fetched(3)
    assert scene.status.counts.family("fetched_objects") == {"trace": 2, "demand": 1}


async def test_a_demand_is_fetched_while_a_build_runs(scene: Scene) -> None:
    await scene.publish()
    async with scene.restorer() as restorer:
        restorer.hold(held=True)
        task = asyncio.create_task(restorer.run())
        await asyncio.sleep(0)
        restorer.demand(ObjectKey.snapshot("d"))
        await scene.fetched(1)
        assert list(scene.agent.filled) == ["d"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert scene.status.counts.family("fetched_objects") == {"demand": 1}


async def test_the_rest_that_is_under_way_stops_when_a_build_begins(scene: Scene) -> None:
    await scene.publish()
    # One of its segments is staged at a time, and the first is not laid out yet.
    scene.slots, scene.trees = Slots(4, 1 << 20, 1), Slots(1, 1 << 21, 1 << 20)
    laid_out = asyncio.Event()
    scene.agent.held = dict.fromkeys(("a", "b", "c", "d", BLOB), laid_out)
    async with scene.running() as restorer:
        await scene.downloads.segments.get()
        restorer.hold(held=True)
        laid_out.set()
        await scene.fetched(1)
        (first,) = scene.agent.filled
        wanted = "d" if first != "d" else "c"
        restorer.demand(ObjectKey.snapshot(wanted))
        await scene.fetched(2)
        assert list(scene.agent.filled) == [first, wanted]
        restorer.hold(held=False)
        await scene.fetched(5)
    assert scene.lost.empty()


async def test_a_prefetch_that_becomes_demanded_counts_as_a_demand(scene: Scene) -> None:
    await scene.publish()
    scene.agent.held["a"] = asyncio.Event()
    async with scene.running() as restorer:
        await scene.fetched(4)
        restorer.demand(ObjectKey.snapshot("a"))
        scene.agent.held["a"].set()
        await scene.fetched(5)
    assert scene.agent.order.count("a") == 1
    assert scene.status.counts.family("fetched_objects")["demand"] == 1


async def test_chunks_that_are_corrupt_once_are_sent_again(scene: Scene) -> None:
    await scene.publish()
    scene.agent.corrupt["c"] = 1
    async with scene.running():
        await scene.fetched(5)
    assert scene.agent.filled["c"] == SNAPSHOTS["c"]


@pytest.mark.parametrize("trouble", ["corrupt", "refused", "store"])
async def test_a_prefetch_that_fails_harms_nobody(scene: Scene, trouble: str) -> None:
    await scene.publish()
    if trouble == "corrupt":
        scene.agent.corrupt["c"] = 99
    elif trouble == "refused":
        scene.agent.refused.add("c")
    else:
        scene.script = [Rule("get_range*", scene.pack_of("c"), 0, Fail())]
    async with scene.running():
        await scene.fetched(5)
        assert "c: failed" in scene.ended(scene.status)
        # A fill that was broken off may have begun with nothing.
        assert sum(bool(data) for data in scene.agent.filled.values()) == 4
        assert scene.lost.empty()
        # Only of a chunk that was corrupt twice is its pack to blame.
        assert bool(scene.downloads.losses) == (trouble == "corrupt")
    assert sum(scene.status.counts.family("errors").values()) == 1


async def test_what_failed_is_fetched_again_when_it_is_demanded(scene: Scene) -> None:
    await scene.publish()
    scene.script = [Rule("get_range", scene.pack_of("c"), 1, Fail())]
    async with scene.running() as restorer:
        await scene.fetched(5)
        assert "c" not in scene.agent.filled
        restorer.demand(ObjectKey.snapshot("c"))
        await scene.fetched(6)
    assert scene.agent.filled["c"] == SNAPSHOTS["c"]
    assert scene.lost.empty()


async def test_a_demand_that_cannot_be_had_loses_the_root(scene: Scene) -> None:
    await scene.publish()
    scene.agent.corrupt["c"] = 99
    async with scene.running() as restorer:
        await scene.fetched(5)
        restorer.demand(ObjectKey.snapshot("c"))
        assert await scene.lost.get() == "demanded object c could not be fetched"


async def test_a_demand_that_nobody_waits_for_any_more_loses_nothing(scene: Scene) -> None:
    await scene.publish()
    scene.agent.corrupt["c"] = 99
    scene.agent.waited = False
    async with scene.running() as restorer:
        await scene.fetched(5)
        restorer.demand(ObjectKey.snapshot("c"))
        await scene.agent.asked_who_waits.wait()
        scene.agent.corrupt.clear()
        restorer.demand(ObjectKey.snapshot("c"))
        await scene.fetched(7)
        assert scene.ended(scene.status)[-1] == "c: ok"
        assert scene.lost.empty()
        assert restorer.given_up is None


async def test_a_demand_for_what_is_removed_meanwhile_loses_nothing(scene: Scene) -> None:
    await scene.publish()
    scene.agent.removed.add("c")
    async with scene.running(calm=False) as restorer:
        restorer.demand(ObjectKey.snapshot("c"))
        await scene.fetched(1)
        restorer.demand(ObjectKey.snapshot("d"))
        await scene.fetched(2)
        assert scene.ended(scene.status) == ["c: failed", "d: ok"]
        assert scene.lost.empty()
        assert restorer.given_up is None


async def test_a_demand_that_takes_too_long_loses_the_root(scene: Scene) -> None:
    await scene.publish()
    scene.demand_timeout = 0.01
    scene.script = [Rule("get_range*", scene.pack_of(BLOB), 0, Hold(asyncio.Event()))]
    async with scene.running() as restorer:
        restorer.demand(ObjectKey.blob(BLOB))
        assert await scene.lost.get() == f"demanded object {BLOB} took over 0.01 s"


async def test_a_demand_for_a_stranger_loses_the_root(scene: Scene) -> None:
    await scene.publish()
    async with scene.running() as restorer:
        restorer.demand(ObjectKey.snapshot("e"))
        assert await scene.lost.get() == "e is asked for but not part of the restored generation"


async def test_what_is_downloaded_before_the_agent_has_loaded_waits_for_it(scene: Scene) -> None:
    await scene.publish()
    async with scene.restorer(loaded=False) as restorer:
        task = asyncio.create_task(restorer.run())
        for _ in range(3):
            await scene.downloads.segments.get()
        assert not scene.agent.order
        restorer.loaded()
        await scene.fetched(5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert len(scene.agent.filled) == 5


async def test_a_restore_that_ends_before_the_agent_has_loaded_leaves_nothing(scene: Scene) -> None:
    await scene.publish()
    async with scene.restorer(loaded=False) as restorer:
        task = asyncio.create_task(restorer.run())
        for _ in range(3):
            await scene.downloads.segments.get()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not scene.agent.order


async def test_complete_fetches_what_is_wanted_and_only_that(scene: Scene) -> None:
    await scene.publish()
    async with scene.running(calm=False) as restorer:
        await restorer.complete(lambda key: key.is_blob)
        assert list(scene.agent.filled) == [BLOB]
        await restorer.complete(lambda _: True)
    assert len(scene.agent.filled) == 5


async def test_complete_says_what_cannot_be_had(scene: Scene) -> None:
    await scene.publish()
    scene.agent.refused.add("c")
    # Neither wrapped in a group nor left waiting for what is held.
    scene.agent.held["d"] = asyncio.Event()
    async with scene.running(calm=False) as restorer:
        with pytest.raises(CorruptObject, match="c could not be restored"):
            await restorer.complete(lambda _: True)


async def test_complete_knows_all_that_is_lost_when_it_gives_up(scene: Scene) -> None:
    await scene.publish()
    scene.agent.corrupt |= {"c": 99, "d": 99}
    scene.agent.held["d"] = asyncio.Event()
    async with scene.running(calm=False) as restorer:
        completing = asyncio.ensure_future(restorer.complete(lambda _: True))
        await scene.status.until(lambda _: bool(scene.downloads.losses))
        known = len(scene.downloads.losses)
        assert not completing.done()
        scene.agent.held["d"].set()
        with pytest.raises(CorruptObject, match="could not be restored"):
            await completing
        assert scene.downloads.losses.exceed(known)
        assert restorer.given_up is not None


async def test_a_complete_restore_stages_no_more_than_its_limit(scene: Scene) -> None:
    """Trees too, although all objects are wanted at once and each needs its tree to the end."""
    await scene.publish(snapshots={f"s{n}": random.Random(n).randbytes(50) for n in range(30)})
    contents = Plan(scene.root).contents.values()
    tree = max(sum(at.length for at in content.tree) for content in contents)
    assert all(content.stored <= 3 * tree for content in contents)
    scene.slots, scene.trees = Slots(8, 6 * tree, 0), Slots(8, 2 * tree, 0)
    async with scene.running() as restorer:
        await restorer.complete(lambda _: True)
        assert tree < scene.downloads.most_staged <= 8 * tree
    assert len(scene.agent.filled) == 31


async def test_without_room_only_what_is_asked_for_is_fetched(scene: Scene) -> None:
    scene.room = lambda _: False
    await scene.publish(used=("a",))
    async with scene.running() as restorer:
        await scene.status.until(lambda status: "prefetch_stopped" in status.counts.plain)
        assert scene.ended(scene.status) == []
        restorer.demand(ObjectKey.snapshot("c"))
        await scene.fetched(1)
        assert scene.ended(scene.status) == ["c: ok"]
    assert scene.status.counts.plain["prefetch_stopped"] == 1
