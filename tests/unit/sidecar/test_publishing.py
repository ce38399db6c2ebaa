"""When a state is published, and what becomes of it when the store or the daemon does not play."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.catalog import Catalog
from buildsvc.cache.generations import GenerationLog
from buildsvc.errors import CorruptObject
from buildsvc.store.contract import Store
from buildsvc.store.faults import Fail, FaultyStore, LoseAnswer, Rule
from buildsvc.store.local import LocalStore
from sidecar import publishing
from sidecar.buildkit import BuildFinished
from sidecar.builds import Finished
from sidecar.capture import CapturedBlob, CapturedTree, restored_blobs, restored_trees
from sidecar.checkpoint import Checkpointer, NotIdle, Picture
from sidecar.epoch import Epoch
from sidecar.losses import Losses
from sidecar.plan import trace_parts
from sidecar.publish import Publisher, merged_trace
from sidecar.publishing import Policy, Publishing
from sidecar.status import Status
from tests.unit.cache.fakes import make_root
from tests.unit.sidecar.test_locate import MINE, newer_head

OK = BuildFinished("ref", 12.5, 1, 2, "")
FAILED = BuildFinished("ref", 1.0, 0, 2, "exit code: 1")


def broken(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, nothing, nothing, details)


def gone() -> grpc.aio.AioRpcError:
    return broken(grpc.StatusCode.UNAVAILABLE, "the daemon died")


def refused() -> grpc.aio.AioRpcError:
    return broken(grpc.StatusCode.UNKNOWN, "no such record")


class FakeInherited:
    """What is restored, of which the store has the chunks of ``root``."""

    def __init__(self, root: cache_pb2.Root) -> None:
        self.root: cache_pb2.Root | None = None
        self.catalog = Catalog.from_root(root)
        self.left_alone: list[bool] = []

    def publishes(self, *, under_way: bool) -> None:
        self.left_alone.append(under_way)


class FakeEpoch:
    """What Publishing uses of an epoch: each checkpoint has the next of ``outcomes``."""

    def __init__(self, root: cache_pb2.Root) -> None:
        self.finished = Finished()
        self.inherited = FakeInherited(root)
        self.uploaded = (0, 0)
        self.doomed = ""
        #: Once there is one answer left in ``active``, which is given from then on.
        self.all_answered = asyncio.Event()
        self.active: list[frozenset[str]] = [frozenset()]
        self.told_when_asked: list[BuildFinished] = []
        self.outcomes: list[Exception | asyncio.Event | None] = []
        self.taken = 0
        self.began = asyncio.Event()
        self.pruned: dict[str, str] = {}
        self.mounts: dict[str, str] = {}
        self.losses = Losses()
        self.collections: list[int] = []
        self.stores_again = True
        self._root = root

    def collected(self, packs: frozenset[bytes], collection: int) -> None:
        """They are stored again at once, so to speak."""
        self.collections.append(collection)
        if self.stores_again:
            self.inherited.catalog.vouch(packs, collection)

    async def active_builds(self) -> frozenset[str]:
        while self.told_when_asked:
            self.finished.add(self.told_when_asked.pop())
        if len(self.active) == 1:
            return self.active[0]
        answer = self.active.pop(0)
        if len(self.active) == 1:
            self.all_answered.set()
        return answer

    def checkpointer(self) -> Checkpointer:
        return cast("Checkpointer", self)

    async def take(self) -> Picture:
        self.taken += 1
        self.began.set()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            await outcome.wait()
        trees = restored_trees(self._root)
        digests = restored_trees_of_databases(self._root)
        return Picture(
            snapshots=[(s.info, trees.get(s.info.name)) for s in self._root.snapshots],
            blobs=list(restored_blobs(self._root).values()),
            databases=digests,
            used=["buildkit/1/lower"],
            database_bytes=9,
            left_out=self.mounts,
            excluded=[],
            outdated=partial(self.losses.exceed, len(self.losses)),
        )


def restored_trees_of_databases(root: cache_pb2.Root) -> CapturedTree:
    """The databases' chunks, found as those of a snapshot are."""
    copy = cache_pb2.Root()
    copy.CopyFrom(root)
    copy.snapshots.add(info=cache_pb2.SnapshotInfo(name="databases"), tree=root.databases)
    return restored_trees(copy)["databases"]


class Scene:
    def __init__(self, epoch: FakeEpoch, log: GenerationLog, store: Store) -> None:
        self.epoch = epoch
        self.log = log
        self.store = store
        self.status = Status()
        publisher = Publisher(log, "v0.33.1", "linux/amd64")
        self.publishing = Publishing(
            cast("Epoch", epoch), publisher, MINE, Policy("always"), self.status
        )

    def built(self) -> None:
        """A build has ended; without any, a cold pod has nothing to publish."""
        self.epoch.finished.add(OK)

    async def published(self, number: int) -> None:
        await self.status.until(
            lambda status: status.published is not None and status.published.number >= number
        )


@asynccontextmanager
async def scene(tmp_path: Path, script: Sequence[Rule] = ()) -> AsyncIterator[Scene]:
    store = FaultyStore(LocalStore(tmp_path / "store"), script)
    root = await asyncio.to_thread(make_root, tmp_path)
    yield Scene(FakeEpoch(root), GenerationLog(store, MINE), store)
    await store.close()


@asynccontextmanager
async def running(it: Scene) -> AsyncIterator[None]:
    task = asyncio.create_task(it.publishing.run())
    try:
        yield
        assert not task.done(), "publishing ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await it.publishing.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_AGAIN_AFTER", 0.001)


@pytest.mark.parametrize(
    ("policy", "build", "wanted"),
    [
        ("always", OK, True),
        ("always", FAILED, True),
        ("on-success", OK, True),
        ("on-success", FAILED, False),
        ("never", OK, False),
    ],
)
def test_which_builds_are_worth_publishing(policy: str, build: BuildFinished, wanted: bool) -> None:  # noqa: FBT001
    assert Policy(policy).wants(build) is wanted


def test_a_failed_build_does_not_replace_what_could_not_be_read() -> None:
    policy = Policy("always", replaces=True)
    assert policy.wants(OK)
    assert not policy.wants(FAILED)


async def test_a_cold_pod_that_built_nothing_publishes_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        report = await it.publishing.checkpoint()
        assert not report.published
        assert await it.log.newest() is None


async def test_a_build_is_published_when_it_has_ended(tmp_path: Path) -> None:
    async with scene(tmp_path) as it, running(it):
        it.epoch.finished.add(OK)
        await it.published(1)
        assert not it.publishing.dirty
        generation = await it.log.newest()
        assert generation is not None
        root = await it.log.read_root(generation)
        assert root.cold_build_seconds == 12.5
        assert it.status.published is not None
        assert it.status.published.cold_build_seconds == 12.5
        assert root.trace.cold
        assert list(root.trace.used) == ["buildkit/1/lower"]


@pytest.mark.parametrize(
    ("trouble", "counted"),
    [
        (NotIdle("busy"), "busy"),
        (CorruptObject("bad page"), "failed"),
        (refused(), "failed"),
        (gone(), "daemon-gone"),
    ],
)
async def test_what_failed_is_tried_again(tmp_path: Path, trouble: Exception, counted: str) -> None:
    async with scene(tmp_path) as it, running(it):
        it.epoch.outcomes = [trouble]
        it.epoch.finished.add(OK)
        await it.published(1)
        assert it.epoch.taken == 2
        assert it.status.counts.family("checkpoints_skipped") == {counted: 1}


async def test_a_build_that_ends_during_a_checkpoint_is_in_the_next_one(tmp_path: Path) -> None:
    async with scene(tmp_path) as it, running(it):
        go = asyncio.Event()
        it.epoch.outcomes = [go]
        it.epoch.finished.add(OK)
        await it.epoch.began.wait()
        it.epoch.finished.add(OK)
        go.set()
        await it.published(2)


@pytest.mark.parametrize("trouble", [None, NotIdle("busy")])
async def test_nothing_is_fetched_ahead_beside_a_publication(
    tmp_path: Path, trouble: Exception | None
) -> None:
    async with scene(tmp_path) as it:
        it.built()
        go = asyncio.Event()
        it.epoch.outcomes = [go if trouble is None else trouble]
        publishing = asyncio.create_task(it.publishing.checkpoint())
        await it.epoch.began.wait()
        if trouble is None:
            assert it.epoch.inherited.left_alone == [True]
        go.set()
        await publishing
        assert it.epoch.inherited.left_alone == [True, False]


async def test_builds_that_end_close_together_are_published_once(tmp_path: Path) -> None:
    """With one still running, nobody could say whether the picture has it."""
    async with scene(tmp_path) as it:
        it.built()
        it.epoch.active = [frozenset({"second"}), frozenset()]
        assert (await it.publishing.checkpoint()).reason == "1 builds are running"
        assert it.epoch.taken == 0
        it.epoch.told_when_asked = [OK]
        assert (await it.publishing.checkpoint()).published
        assert not it.publishing.dirty


async def test_a_report_says_what_was_published_or_why_not(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.built()
        it.epoch.outcomes = [NotIdle("2 builds are running"), CorruptObject("bad page"), gone()]
        reasons = [(await it.publishing.checkpoint()).reason for _ in range(3)]
        assert reasons == ["2 builds are running", "bad page", "the daemon died"]
        report = await it.publishing.checkpoint()
        assert (report.published, report.number, report.snapshots, report.blobs) == (True, 1, 3, 1)


async def test_an_end_that_was_not_told_yet_is_published_on_request(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.epoch.told_when_asked = [OK]
        assert (await it.publishing.checkpoint()).published
        assert not it.publishing.dirty


async def test_what_could_not_be_published_on_request_is_later(tmp_path: Path) -> None:
    async with scene(tmp_path) as it, running(it):
        it.epoch.outcomes = [CorruptObject("bad page")]
        it.epoch.told_when_asked = [OK]
        assert not (await it.publishing.checkpoint()).published
        await it.published(1)


async def test_a_caller_that_goes_away_does_not_end_a_checkpoint(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.built()
        go = asyncio.Event()
        it.epoch.outcomes = [go]
        caller = asyncio.create_task(it.publishing.checkpoint())
        await it.epoch.began.wait()
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        go.set()
        await it.published(1)
        await it.publishing.close()


async def test_draining_waits_for_builds_and_publishes_them(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.epoch.active = [frozenset({"ref"}), frozenset()]
        draining = asyncio.create_task(it.publishing.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        it.epoch.finished.add(OK)
        await draining
        assert it.status.published is not None


async def test_draining_waits_for_a_build_that_began_while_it_published(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        go = asyncio.Event()
        it.epoch.outcomes = [go]
        it.built()
        draining = asyncio.create_task(it.publishing.drain())
        await it.epoch.began.wait()
        it.epoch.active = [frozenset({"late"}), frozenset()]
        go.set()
        await it.epoch.all_answered.wait()
        assert not draining.done()
        it.built()
        await draining
        assert it.epoch.taken == 2
        assert not it.publishing.dirty


async def test_a_root_that_is_about_to_be_given_up_is_not_published(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.built()
        it.epoch.doomed = "a build failed on a full disk"
        report = await it.publishing.checkpoint()
        assert (report.published, report.reason) == (False, "a build failed on a full disk")
        assert it.epoch.taken == 0


async def test_draining_what_is_published_already_does_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        await it.publishing.drain()
        assert it.epoch.taken == 0


async def test_what_is_found_lost_after_publishing_is_published_anew(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.built()
        assert (await it.publishing.checkpoint()).number == 1
        assert not it.publishing.dirty
        it.epoch.losses.packs.add(b"p" * 32)
        await it.publishing.drain()
        assert it.epoch.taken == 2
        assert not it.publishing.dirty


async def fenced(it: Scene) -> None:
    """A collection has begun of which this pod does not know."""
    await it.log.announce()
    await it.log.fence(1, parent=None, collection=4, oldest_kept=1, repeats=None)


async def test_what_a_collection_may_have_deleted_is_stored_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.built()
        await fenced(it)
        report = await it.publishing.checkpoint()
        assert (report.published, report.number) == (True, 2)
        assert (it.epoch.taken, it.epoch.collections) == (2, [4])
        head = (await it.log.read(2)).head
        assert head.collection == 4


async def test_it_is_not_stored_again_for_ever(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.built()
        await fenced(it)
        it.epoch.stores_again = False
        report = await it.publishing.checkpoint()
        assert not report.published
        assert "deleted by collection 4" in report.reason
        assert it.epoch.taken == publishing._COLLECTIONS + 1


@pytest.mark.parametrize("trouble", [CorruptObject("bad page"), gone()])
async def test_draining_ends_although_nothing_can_be_published(
    tmp_path: Path, trouble: Exception
) -> None:
    async with scene(tmp_path) as it:
        it.epoch.outcomes = [trouble] * 100
        it.epoch.finished.add(OK)
        await it.publishing.drain()
        assert it.epoch.taken == publishing._LAST_TRIES


async def test_a_lost_answer_is_found_to_be_the_own_head(tmp_path: Path) -> None:
    script = [Rule("create", "keys/*", 1, LoseAnswer())]
    async with scene(tmp_path, script) as it:
        it.built()
        report = await it.publishing.checkpoint()
        assert (report.published, report.number) == (True, 1)
        assert await it.log.newest_number() == 1


async def test_a_head_that_is_not_taken_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    script = [Rule("create", "keys/*", 1, Fail())]
    async with scene(tmp_path, script) as it:
        it.built()
        report = await it.publishing.checkpoint()
        assert not report.published
        assert "scripted fault" in report.reason
        assert await it.log.newest_number() == 0
        assert (await it.publishing.checkpoint()).number == 1


async def test_a_newer_head_is_continued_not_overwritten(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.built()
        await newer_head(it.store, MINE, 1)
        before = await it.store.get(MINE.head_name(1))
        report = await it.publishing.checkpoint()
        assert (report.published, report.number) == (True, 2)
        assert await it.store.get(MINE.head_name(1)) == before
        assert (await it.log.read(2)).head.parent == b""


async def test_two_pods_publish_one_after_the_other(tmp_path: Path) -> None:
    async with scene(tmp_path) as one:
        others = [Scene(one.epoch, one.log, one.store) for _ in range(3)]
        for other in others:
            other.built()
        reports = await asyncio.gather(*(other.publishing.checkpoint() for other in others))
        assert sorted(report.number for report in reports) == [1, 2, 3]
        assert (await one.log.read(3)).head.parent == (await one.log.read(2)).digest


async def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    async with scene(tmp_path) as it:
        it.epoch.inherited.root = make_root(tmp_path)
        it.epoch.mounts = {"buildkit/9/mount": "too large"}
        it.epoch.pruned = {"buildkit/8/layer": "too large", "buildkit/7/layer": "too large"}
        assert (await it.publishing.checkpoint()).published
        assert it.status.counts.family("left_out") == {"cache-mount": 1, "layer": 2}


def test_the_trace_of_earlier_pods_is_kept_behind_this_ones(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    infos = [s.info for s in root.snapshots]
    picture = Picture(
        [(info, None) for info in infos], [], CapturedTree(b"", b"", 0, 0), [], 0, {}, [], bool
    )
    root.trace.cold = True
    root.trace.used[:] = ["buildkit/1/lower", "gone", "buildkit/2/upper"]
    merged = merged_trace(picture, root)
    assert list(merged.used) == ["buildkit/2/upper", "buildkit/1/lower"]
    assert merged.earlier == 0
    here = replace(picture, used=["buildkit/1/lower"])
    merged = merged_trace(here, root)
    assert list(merged.used) == ["buildkit/1/lower", "buildkit/2/upper"]
    assert merged.earlier == 1
    assert not merged.cold
    root.trace.CopyFrom(merged)
    unused = merged_trace(picture, root)
    assert unused == merged
    assert merged_trace(replace(picture, used=["pruned", "since"]), root) == merged
    assert merged_trace(here, None) == cache_pb2.Trace(cold=True, used=["buildkit/1/lower"])


def test_what_a_restored_pod_made_stands_behind_what_it_restored(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    infos = [s.info for s in root.snapshots]
    made = cache_pb2.SnapshotInfo(name="buildkit/3/made")
    there: list[tuple[cache_pb2.SnapshotInfo, CapturedTree | None]]
    there = [*((info, None) for info in infos), (made, None)]
    used = ["buildkit/3/made", "buildkit/1/lower"]
    picture = Picture(there, [], CapturedTree(b"", b"", 0, 0), used, 0, {}, [], bool)
    root.trace.used[:] = ["buildkit/2/upper"]

    merged = merged_trace(picture, root)

    assert list(merged.used) == ["buildkit/1/lower", "buildkit/3/made", "buildkit/2/upper"]
    assert merged.earlier == 2
    assert merged.made == 1
    everything = merged_trace(replace(picture, used=["buildkit/3/made"]), root)
    assert list(everything.used) == ["buildkit/3/made", "buildkit/2/upper"]
    assert everything.earlier == 1


def test_what_the_next_pod_does_not_ask_for_is_left_behind(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    # It was pushed, and nobody has read it.
    blob = cache_pb2.Blob(digest="sha256:made")
    root.blobs.append(blob)
    root.trace.cold = False
    root.trace.used[:] = ["buildkit/1/lower", "buildkit/2/upper", "sha256:made"]
    root.trace.earlier, root.trace.made = 2, 2
    infos = [s.info for s in root.snapshots]
    new = cache_pb2.SnapshotInfo(name="buildkit/3/made")
    there: list[tuple[cache_pb2.SnapshotInfo, CapturedTree | None]]
    there = [*((info, None) for info in infos), (new, None)]
    blobs = [CapturedBlob("sha256:made", 1, 0, b"")]
    used = ["buildkit/1/lower", "buildkit/3/made"]
    picture = Picture(there, blobs, CapturedTree(b"", b"", 0, 0), used, 0, {}, [], bool)

    merged = merged_trace(picture, root)

    assert trace_parts(merged) == (
        ["buildkit/1/lower"], ["buildkit/3/made"], [], ["buildkit/2/upper", "sha256:made"]
    )  # fmt: skip
    # Of a build that asks for it, it is a part again.
    asked = merged_trace(replace(picture, used=["buildkit/2/upper"]), root)
    assert trace_parts(asked) == (
        ["buildkit/2/upper"], ["buildkit/3/made"], ["buildkit/1/lower"], ["sha256:made"]
    )  # fmt: skip
    # A pod in which nothing was built knows no better than the one before.
    idle = replace(picture, snapshots=there[:-1], used=[])
    assert merged_trace(idle, root) == root.trace
