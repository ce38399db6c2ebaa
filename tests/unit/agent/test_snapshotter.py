"""The snapshotter on a real directory, without mounts: what it answers, keeps and throws away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar.agent import index_file
from sidecar.agent.directories import Directories
from sidecar.agent.events import Events
from sidecar.agent.gate import Gate
from sidecar.agent.index import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    Kind,
    NotFound,
    Row,
    Unavailable,
)
from sidecar.agent.index_file import IndexFile
from sidecar.agent.residency import Residency, snapshot
from sidecar.agent.shapes import Mount
from sidecar.agent.snapshotter import Snapshotter
from sidecar.agent.trash import Trash
from sidecar.agent.usage import Usage, measure


class Unmounted(Directories):
    """Remembers what would be mounted; a test may hold a mount up or let it fail."""

    def __init__(self, root: Path, trash: Trash) -> None:
        super().__init__(root, trash)
        self.mounted: dict[int, tuple[Sequence[int], bool]] = {}
        self.reached = asyncio.Event()
        self.unpinning = asyncio.Event()
        self.proceed = asyncio.Event()
        self.proceed.set()
        self.refuse: OSError | None = None

    async def pin(self, number: int, lower: Sequence[int], *, writable: bool) -> None:
        self.reached.set()
        await self.proceed.wait()
        if self.refuse:
            raise self.refuse
        self.mounted[number] = (lower, writable)

    async def unpin(self, number: int) -> None:
        self.unpinning.set()
        await self.proceed.wait()
        self.mounted.pop(number, None)

    async def discard(self, number: int) -> None:
        self.mounted.pop(number, None)
        await super().discard(number)


class World:
    """One agent's snapshotter with everything below it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.events = Events()
        self.residency = Residency(self.events)
        self.gate = Gate()
        self.directories = Unmounted(root, Trash())
        self.index = index_file.load(root)
        self._writer = ThreadPoolExecutor(1)
        self.snapshotter = Snapshotter(
            index=self.index,
            file=IndexFile(root, self.index, self._writer),
            directories=self.directories,
            residency=self.residency,
            events=self.events,
            gate=self.gate,
        )

    def close(self) -> None:
        self.directories.close()
        self._writer.shutdown()


@asynccontextmanager
async def running(root: Path) -> AsyncIterator[World]:
    world = await asyncio.to_thread(World, root)
    try:
        await world.directories.adopt({row.id for row in world.index.walk()})
        yield world
    finally:
        await asyncio.to_thread(world.close)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path) as made:
        yield made


async def commit(world: World, name: str, parent: str = "") -> Row:
    await world.snapshotter.prepare(f"{name}-key", parent, {})
    await world.snapshotter.commit(name, f"{name}-key", "", {})
    return world.snapshotter.stat(name)


def layer(world: World, row: Row) -> Path:
    return world.root / str(row.id) / "fs"


async def test_the_shapes_of_mounts(world: World) -> None:
    sn = world.snapshotter
    (first,) = await sn.prepare("a", "", {})
    assert first == Mount("bind", f"{world.root}/1/fs", ["rw", "rbind"])
    await sn.commit("A", "a", "", {})
    (second,) = await sn.prepare("b", "A", {})
    assert second == Mount("bind", f"{world.root}/2/merged", ["rw", "rbind"])
    assert world.directories.mounted[2] == ([1], True)
    await sn.commit("B", "b", "", {})
    assert 2 not in world.directories.mounted
    assert await sn.view("v", "A", {}) == [Mount("bind", f"{world.root}/1/fs", ["ro", "rbind"])]
    lower = f"lowerdir={world.root}/2/fs:{world.root}/1/fs"
    overlay = [Mount("overlay", "overlay", [lower, "index=off", "userxattr"])]
    assert await sn.view("w", "B", {}) == overlay
    assert await sn.mounts("w") == overlay
    (empty,) = await sn.view("nothing", "", {})
    assert empty.options == ["ro", "rbind"]
    assert os.listdir(empty.source) == []


async def test_a_merge_writes_to_the_layer_itself(world: World) -> None:
    await commit(world, "base")
    shape = await world.snapshotter.prepare("merge", "base", {}, direct=True)
    number = world.snapshotter.stat("merge").id
    own = f"{world.root}/{number}"
    options = [f"workdir={own}/work", f"upperdir={own}/fs", f"lowerdir={world.root}/1/fs"]
    assert shape == [Mount("overlay", "overlay", [*options, "index=off", "userxattr"])]
    assert await world.snapshotter.mounts("merge") == shape
    assert Path(own, "work").is_dir()
    assert not world.directories.mounted


async def test_who_asks_again_depends_on_no_mount_of_ours(world: World) -> None:
    """BuildKit reads what a step wrote, and may commit it before it has mounted the answer."""
    await commit(world, "base")
    await world.snapshotter.prepare("step", "base", {})
    number = world.snapshotter.stat("step").id
    own = f"{world.root}/{number}"
    writer = [Mount("bind", f"{own}/merged", ["rw", "rbind"])]
    assert await world.snapshotter.mounts("step") == writer
    assert world.directories.mounted == {number: ([1], True)}
    options = [f"workdir={own}/again", f"upperdir={own}/fs", f"lowerdir={world.root}/1/fs"]
    reader = [Mount("overlay", "overlay", [*options, "index=off", "userxattr"])]
    assert await world.snapshotter.mounts("step") == reader
    assert world.directories.mounted == {}
    assert await world.snapshotter.mounts("step") == reader
    assert Path(own, "again").is_dir()
    await world.snapshotter.commit("stage", "step", "", {})
    assert Path(own, "fs").is_dir()


async def test_too_many_layers_for_mount_are_ours_for_every_client(world: World) -> None:
    parent = ""
    for number in range(620):
        world.index.restore(Row(1000 + number, f"c{number}", parent, Kind.COMMITTED, {}, 1, 1))
        parent = f"c{number}"
    (world.root / "1619" / "fs").mkdir(parents=True)
    await world.snapshotter.prepare("step", parent, {})
    first = await world.snapshotter.mounts("step")
    assert await world.snapshotter.mounts("step") == first


async def test_a_view_of_too_many_layers_for_mount_is_pinned(world: World) -> None:
    parent = ""
    for number in range(620):
        world.index.restore(Row(1000 + number, f"c{number}", parent, Kind.COMMITTED, {}, 1, 1))
        parent = f"c{number}"
    (fits,) = await world.snapshotter.view("fits", "c400", {})
    assert fits.type == "overlay"
    (pinned,) = await world.snapshotter.view("pinned", parent, {})
    number = world.snapshotter.stat("pinned").id
    assert pinned == Mount("bind", f"{world.root}/{number}/merged", ["ro", "rbind"])
    lower, writable = world.directories.mounted[number]
    assert (len(lower), writable) == (620, False)


async def test_a_layer_has_containerds_mode_and_its_parents_owner(world: World) -> None:
    row = await commit(world, "base")
    mode = layer(world, row).stat().st_mode & 0o7777
    assert mode == 0o755
    if os.geteuid() == 0:
        os.chown(layer(world, row), 1234, 4321)
        child = await commit(world, "child", "base")
        stat = layer(world, child).stat()
        assert (stat.st_uid, stat.st_gid) == (1234, 4321)


async def test_what_is_refused_leaves_nothing_behind(world: World) -> None:
    await commit(world, "base")
    before = sorted(os.listdir(world.root))
    with pytest.raises(AlreadyExists):
        await world.snapshotter.prepare("base", "", {})
    with pytest.raises(NotFound):
        await world.snapshotter.view("x", "nowhere", {})
    world.directories.refuse = OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        await world.snapshotter.prepare("x", "base", {})
    await world.snapshotter.cleanup()
    assert sorted(os.listdir(world.root)) == before
    with pytest.raises(InvalidArgument):
        world.snapshotter.walk(["name=="])


async def test_usage_counts_as_du_does(world: World) -> None:
    (mount,) = await world.snapshotter.prepare("a", "", {})
    top = Path(mount.source)
    (top / "f").write_bytes(b"x" * 10000)
    os.link(top / "f", top / "g")
    (top / "d").mkdir()
    (top / "d/l").symlink_to("nowhere")
    (top / "sparse").touch()
    os.truncate(top / "sparse", 1 << 30)
    blocks = sum(p.lstat().st_blocks for p in (top, top / "f", top / "d", top / "d/l"))
    blocks += (top / "sparse").stat().st_blocks
    expected = Usage(blocks * 512, 5)
    assert await world.snapshotter.usage("a") == expected
    await world.snapshotter.commit("A", "a", "", {})
    assert await world.snapshotter.usage("A") == expected
    await world.snapshotter.view("v", "A", {})
    assert await world.snapshotter.usage("v") == Usage(0, 0)


async def test_usage_from_a_restored_index_never_touches_the_disk(world: World) -> None:
    await world.snapshotter.restore(
        [Row(1, "lazy", "", Kind.COMMITTED, {}, 1, 1, usage=Usage(4096, 1), lazy=True)]
    )
    assert await world.snapshotter.usage("lazy") == Usage(4096, 1)
    assert not (world.root / "1").exists()


async def test_a_restored_active_snapshot_may_begin_empty(world: World) -> None:
    base = Row(1, "base", "", Kind.COMMITTED, {}, 1, 1, lazy=True)
    cache = Row(2, "cache", "base", Kind.ACTIVE, {}, 1, 1, usage=Usage(0, 0))
    await world.snapshotter.restore([base, cache])
    assert list(layer(world, cache).iterdir()) == []
    world.residency.mark_local(snapshot("base"))
    (mount,) = await world.snapshotter.mounts("cache")
    assert f"upperdir={layer(world, cache)}" in mount.options


async def test_usage_of_an_active_snapshot_is_stale_once_it_was_mounted(world: World) -> None:
    row = Row(1, "cache", "", Kind.ACTIVE, {}, 1, 1, usage=Usage(4096, 1), lazy=True)
    await world.snapshotter.restore([row])
    await world.snapshotter.begin_layer(row)
    (layer(world, row) / "file").write_bytes(b"x" * 100)
    world.snapshotter.mark_local(row)
    world.residency.mark_local(snapshot("cache"))
    assert await world.snapshotter.usage("cache") == Usage(4096, 1)
    await world.snapshotter.mounts("cache")
    assert await world.snapshotter.usage("cache") == await asyncio.to_thread(
        measure, str(layer(world, row))
    )


async def test_lazy_layers_are_fetched_before_they_are_mounted(world: World) -> None:
    await world.snapshotter.restore(
        [
            Row(1, "base", "", Kind.COMMITTED, {}, 1, 1, lazy=True),
            Row(2, "top", "base", Kind.COMMITTED, {}, 1, 1, lazy=True),
            Row(3, "view", "top", Kind.VIEW, {}, 1, 1),
        ]
    )
    with world.events.listening() as queue:
        mounting = asyncio.create_task(world.snapshotter.mounts("view"))
        assert [(await queue.get()).demand.name for _ in range(2)] == ["base", "top"]
        # Nobody who only asks has to wait.
        assert world.snapshotter.stat("top").lazy
        assert len(world.snapshotter.walk([])) == 3
        world.residency.mark_local(snapshot("base"))
        world.residency.fail(snapshot("top"), "gone")
        with pytest.raises(Unavailable, match="gone"):
            await mounting
    assert world.snapshotter.sequence == 0


async def test_a_lazy_snapshot_is_removed_without_being_fetched(world: World) -> None:
    row = Row(1, "base", "", Kind.COMMITTED, {}, 1, 1, lazy=True)
    await world.snapshotter.restore([row])
    waiting = asyncio.create_task(world.snapshotter.prepare("x", "base", {}))
    await asyncio.sleep(0)
    await world.snapshotter.remove("base")
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(NotFound):
        world.snapshotter.mark_local(row)


async def test_a_held_directory_is_deleted_when_it_is_let_go(world: World) -> None:
    row = await commit(world, "base")
    with world.snapshotter.held(row):
        await world.snapshotter.remove("base")
        await world.snapshotter.cleanup()
        assert layer(world, row).exists()
    await world.snapshotter.cleanup()
    assert not layer(world, row).parent.exists()


async def test_every_change_is_counted(world: World) -> None:
    sn = world.snapshotter
    await commit(world, "base")
    await sn.prepare("active", "base", {})
    before = sn.sequence
    await sn.mounts("active")
    assert sn.touched[sn.stat("active").id] == sn.sequence == before + 1
    await sn.view("view", "base", {})
    await sn.mounts("view")
    assert sn.sequence == before + 2
    await sn.update("base", {"a": "b"}, ())
    assert sn.touched[sn.stat("base").id] == sn.sequence == before + 3
    await sn.remove("view")
    assert sn.sequence == before + 4


async def test_the_commit_is_told(world: World) -> None:
    with world.events.listening() as queue:
        await commit(world, "base")
        assert await queue.get() == agent_pb2.Event(committed="base")


async def test_the_gate_waits_for_those_inside_and_keeps_others_out(world: World) -> None:
    await commit(world, "base")
    world.directories.proceed.clear()
    inside = asyncio.create_task(world.snapshotter.prepare("inside", "base", {}))
    await world.directories.reached.wait()
    closing = asyncio.create_task(world.gate.close())
    await asyncio.sleep(0)
    outside = asyncio.create_task(world.snapshotter.prepare("outside", "", {}))
    await asyncio.sleep(0)
    assert not closing.done()
    world.directories.proceed.set()
    await closing
    assert "inside" in world.index
    assert "outside" not in world.index
    await inside
    world.gate.open()
    await outside


async def test_a_client_that_gives_up_at_the_gate_has_changed_nothing(world: World) -> None:
    await world.gate.close()
    outside = asyncio.create_task(world.snapshotter.prepare("outside", "", {}))
    await asyncio.sleep(0)
    outside.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outside
    world.gate.open()
    await world.snapshotter.prepare("other", "", {})
    await world.gate.close()
    assert [row.name for row in world.index.walk()] == ["other"]


async def test_a_client_that_gives_up_inside_breaks_neither_call_nor_gate(world: World) -> None:
    await commit(world, "base")
    world.directories.proceed.clear()
    inside = asyncio.create_task(world.snapshotter.prepare("inside", "base", {}))
    await world.directories.reached.wait()
    inside.cancel()
    with pytest.raises(asyncio.CancelledError):
        await inside
    world.directories.proceed.set()
    await world.gate.close()
    assert "inside" in world.index


async def test_a_commit_that_nobody_waits_for_has_not_happened(world: World) -> None:
    """containerd has rolled its own side back, and asks for the active one again."""
    await commit(world, "base")
    await world.snapshotter.prepare("step", "base", {"a": "b"})
    number = world.snapshotter.stat("step").id
    world.directories.proceed.clear()
    world.directories.unpinning.clear()
    committing = asyncio.create_task(world.snapshotter.commit("stage", "step", "", {}))
    await world.directories.unpinning.wait()
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    world.directories.proceed.set()
    await world.snapshotter.close()
    assert "stage" not in world.index
    row = world.snapshotter.stat("step")
    assert (row.id, row.kind, row.labels) == (number, Kind.ACTIVE, {"a": "b"})
    (mount,) = await world.snapshotter.mounts("step")
    assert f"upperdir={layer(world, row)}" in mount.options
    await world.snapshotter.commit("stage again", "step", "", {})
    assert world.snapshotter.stat("stage again").id == number


async def test_a_commit_whose_answer_comes_too_late_has_not_happened(world: World) -> None:
    await world.snapshotter.prepare("step", "", {})
    with world.events.listening() as queue:
        committing = asyncio.create_task(world.snapshotter.commit("stage", "step", "", {}))
        await queue.get()
    committing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await committing
    await world.snapshotter.close()
    assert [row.name for row in world.index.walk()] == ["step"]
    async with running(world.root) as later:
        assert [row.name for row in later.index.walk()] == ["step"]


async def test_whoever_names_the_active_one_again_has_not_committed_it(world: World) -> None:
    """containerd's transaction failed after our answer; it names only what its database has."""
    await commit(world, "base")
    await world.snapshotter.prepare("step", "base", {})
    number = world.snapshotter.stat("step").id
    await world.snapshotter.commit("stage", "step", "", {})
    assert world.snapshotter.stat("step").id == number
    assert "stage" not in world.index
    await world.snapshotter.commit("stage", "step", "", {})
    await world.snapshotter.commit("stage", "step", "", {})
    assert world.snapshotter.stat("stage").id == number
    with pytest.raises(NotFound):
        world.snapshotter.stat("step")


async def test_what_was_never_named_is_not_removed_with_its_first_collection(world: World) -> None:
    await world.snapshotter.prepare("step", "", {})
    await world.snapshotter.commit("stage", "step", "", {})
    await world.snapshotter.remove("stage")
    assert [row.name for row in world.index.walk()] == ["step"]
    # What containerd does not know as the active one either goes with the next.
    await world.snapshotter.remove("step")
    assert len(world.index) == 0


async def test_a_commit_that_is_refused_leaves_the_other_one(world: World) -> None:
    await commit(world, "stage")
    await world.snapshotter.prepare("step", "", {})
    with pytest.raises(AlreadyExists):
        await world.snapshotter.commit("stage", "step", "", {})
    assert world.snapshotter.stat("stage").kind is Kind.COMMITTED
    assert world.snapshotter.stat("step").kind is Kind.ACTIVE


async def test_a_commit_on_a_full_disk_has_not_happened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.snapshotter.prepare("step", "", {})

    def full(path: str, data: bytes) -> Callable[[], None]:  # noqa: ARG001
        def write() -> None:
            raise OSError(28, "No space left on device")

        return write

    with monkeypatch.context() as patched:
        patched.setattr(index_file, "_replace", full)
        with world.events.listening() as queue, pytest.raises(OSError, match="No space"):
            await world.snapshotter.commit("stage", "step", "", {})
        assert queue.empty()
    assert [row.name for row in world.index.walk()] == ["step"]
    await world.snapshotter.commit("stage", "step", "", {})


async def test_a_freeze_that_is_given_up_leaves_the_gate_open(world: World) -> None:
    await world.gate.enter()
    closing = asyncio.create_task(world.gate.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await world.snapshotter.prepare("a", "", {})


async def test_a_process_that_is_killed_has_lost_nothing_it_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as first:
        await commit(first, "base")
        await first.snapshotter.prepare("active", "base", {"a": "b"})
        await first.snapshotter.prepare("gone", "base", {})
        await first.snapshotter.remove("gone")
        # Begun, and not answered: a directory without a row.
        await first.directories.create(77, None)
        rows = list(first.index.walk())
    async with running(tmp_path) as second:
        assert [(r.name, r.id, r.labels) for r in second.index.walk()] == [
            (r.name, r.id, r.labels) for r in rows
        ]
        await second.snapshotter.cleanup()
        assert not (tmp_path / "77").exists()
        (mount,) = await second.snapshotter.mounts("active")
        # It does not know whether somebody has asked before.
        assert f"upperdir={layer(second, second.snapshotter.stat('active'))}" in mount.options
        await second.snapshotter.prepare("next", "", {})
        assert second.snapshotter.stat("next").id > max(r.id for r in rows)


async def test_calls_at_once_share_writes_of_the_index(world: World) -> None:
    await asyncio.gather(*(world.snapshotter.prepare(f"k{n}", "", {}) for n in range(50)))
    back = await asyncio.to_thread(index_file.load, world.root)
    assert len(back) == 50


async def test_a_full_disk_does_not_keep_snapshots_from_being_removed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await commit(world, "base")

    def full(_old: str, _new: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        await world.snapshotter.update("base", {"a": "b"}, ())
    await world.snapshotter.remove("base")
    assert "base" not in world.index


async def test_only_an_empty_root_is_restored_into(world: World) -> None:
    await commit(world, "base")
    with pytest.raises(FailedPrecondition):
        await world.snapshotter.restore([])
