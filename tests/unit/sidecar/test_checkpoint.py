"""Pictures of a daemon: what is captured, when it begins again, and that the daemon goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.catalog import Catalog
from buildsvc.cache.roots import ChunkTable
from buildsvc.errors import CorruptObject, StoreError
from buildsvc.store.faults import Fail, FaultyStore, Rule
from buildsvc.store.local import LocalStore
from sidecar import cachemounts, checkpoint
from sidecar.agentclient import AgentClient
from sidecar.buildkit import BuildKit
from sidecar.capture import Captures, NotCapturedError, Uploads
from sidecar.checkpoint import Checkpointer, Daemon, NotIdle
from sidecar.databases import Records
from sidecar.losses import Losses
from sidecar.pause import NotStopped
from sidecar.status import Status
from tests.unit.cache.fakes import make_root, write_pack
from tests.unit.sidecar.fakeagent import FakeAgent, connected
from tests.unit.sidecar.test_capture import pack_event, skipped_event, tree_event

ACTIVE = cache_pb2.SNAPSHOT_KIND_ACTIVE
COMMITTED = cache_pb2.SNAPSHOT_KIND_COMMITTED
VIEW = cache_pb2.SNAPSHOT_KIND_VIEW
DATABASES = agent_pb2.CaptureEvent(databases=agent_pb2.CapturedTree(tree_digests=b"x" * 32))


class FakeBuildKit(BuildKit):
    """A daemon's API without a daemon."""

    def __init__(self) -> None:
        self.active: list[str] = []
        self.pruned: list[tuple[tuple[str, ...], int]] = []

    async def active_builds(self) -> frozenset[str]:
        return frozenset(self.active)

    async def prune(self, filters: Sequence[str] = (), max_used_space: int = 0) -> int:
        assert filters or max_used_space, "it would remove the whole cache"
        self.pruned.append((tuple(filters), max_used_space))
        return 0


class FakeDatabases:
    """In the place of the module: what a test says is in the files."""

    def __init__(self) -> None:
        #: Answers in turn; the last one stays.
        self.counts = [(1,)]
        self.blobs: list[dict[str, int]] = [{}]
        self.contexts = [0]
        self.bad = ""
        self.found = Records({}, {})
        self.copied_records = 0
        self.verified: frozenset[str] = frozenset()

    def transactions(self, _: Path) -> tuple[int, ...]:
        return self.counts.pop(0) if len(self.counts) > 1 else self.counts[0]

    def local_blobs(self, _: Path, lazy: frozenset[str]) -> dict[str, int]:
        found = self.blobs.pop(0) if len(self.blobs) > 1 else self.blobs[0]
        return {digest: size for digest, size in found.items() if digest not in lazy}

    def copy(self, _: Path, into: Path) -> int:
        into.mkdir()
        return 17

    def verify(self, _: Path, snapshots: frozenset[str]) -> None:
        self.verified = snapshots
        if self.bad:
            raise CorruptObject(self.bad)

    def records(self, _: Path) -> Records:
        return self.found

    def copy_records(self, _: Path, into: Path) -> None:
        self.copied_records += 1
        into.mkdir()

    def local_contexts(self, _: Path) -> int:
        return self.contexts.pop(0) if len(self.contexts) > 1 else self.contexts[0]


def row(
    name: str, kind: cache_pb2.SnapshotKind.ValueType = COMMITTED, touched: int = 0
) -> agent_pb2.SnapshotState:
    info = cache_pb2.SnapshotInfo(name=name, kind=kind)
    return agent_pb2.SnapshotState(info=info, residency=agent_pb2.RESIDENCY_LOCAL, touched=touched)


class Scene:
    """A checkpointer and all that is around it."""

    def __init__(self, directory: Path, client: AgentClient, agent: FakeAgent, pid: int) -> None:
        self.directory = directory
        self.agent = agent
        self.api = FakeBuildKit()
        self.databases = FakeDatabases()
        self.pid = pid
        self.script: list[Rule] = []
        self.restored: cache_pb2.Root | None = None
        #: How many processes RUN steps have left, at each look.
        self.strays = [0]
        self.losses = Losses()
        self.exclude: list[str] = []
        self.catalog = Catalog()
        self._client = client

    async def _end_strays(self) -> int:
        return self.strays.pop(0) if len(self.strays) > 1 else self.strays[0]

    def checkpointer(self) -> Checkpointer:
        store = FaultyStore(LocalStore(self.directory / "store"), self.script)
        uploads = Uploads(store, self._client, self.catalog, Status(), 2)
        (self.directory / "scratch").mkdir(exist_ok=True)
        return Checkpointer(
            Daemon(self.pid, self.directory, self.api),
            self._client,
            Captures(self._client, uploads),
            uploads,
            end_strays=self._end_strays,
            restored=self.restored,
            losses=self.losses,
            scratch=self.directory / "scratch",
            max_used_space=1000,
            exclude=self.exclude,
        )

    def goes_on(self) -> bool:
        """Whether the daemon is neither stopped nor held up by the agent."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "T" and not self.agent.frozen


@pytest_asyncio.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    agent = FakeAgent()
    daemon = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        async with connected(agent, tmp_path) as client:
            made = Scene(tmp_path, client, agent, daemon.pid)
            for module in (checkpoint, cachemounts):
                monkeypatch.setattr(module, "databases", made.databases)
            yield made
            assert made.goes_on()
    finally:
        daemon.kill()
        await daemon.wait()


async def test_a_picture_has_everything_of_one_instant(scene: Scene) -> None:
    blob = agent_pb2.CapturedBlob(digest="sha256:b", size=7, data_digests=b"b" * 32)
    scene.agent.state = agent_pb2.State(
        sequence=5,
        snapshots=[row("a"), row("mount", ACTIVE, touched=3), row("view", VIEW)],
        used=[agent_pb2.ObjectId(name="a")],
    )
    scene.databases.blobs = [{"sha256:b": 7}]
    scene.agent.captures = [
        [tree_event("a"), agent_pb2.CaptureEvent(blob=blob)],
        [tree_event("mount")],
        [DATABASES],
    ]
    picture = await scene.checkpointer().take()
    assert [(info.name, tree is None) for info, tree in picture.snapshots] == [
        ("a", False),
        ("mount", False),
        ("view", True),
    ]
    assert picture.snapshots[0][0].usage_bytes == 3
    assert [blob.digest for blob in picture.blobs] == ["sha256:b"]
    assert (picture.used, picture.database_bytes) == (["a"], 17)
    assert scene.databases.verified == {"a", "mount", "view"}
    first, second, third = scene.agent.captured
    assert (list(first.snapshots), list(first.blobs)) == (["a"], ["sha256:b"])
    assert (list(second.snapshots), second.active) == (["mount"], True)
    assert third.flush
    # First by the size limit, then local contexts, always.
    assert scene.api.pruned == [((), 1000), (("type==source.local",), 0)]
    assert list((scene.directory / "scratch").iterdir()) == []


async def test_no_picture_while_a_build_runs(scene: Scene) -> None:
    scene.api.active = ["ref"]
    with pytest.raises(NotIdle, match="1 builds are running"):
        await scene.checkpointer().take()
    assert scene.api.pruned == []


@pytest.mark.parametrize("what", ["snapshots", "databases", "blobs", "contexts", "strays"])
async def test_whatever_came_in_between_begins_it_again(scene: Scene, what: str) -> None:
    scene.agent.state = agent_pb2.State(sequence=5)
    rounds = [[DATABASES]]
    if what == "snapshots":
        scene.agent.frozen_states = [agent_pb2.State(sequence=6)]
    elif what == "databases":
        scene.databases.counts = [(1,), (2,)]
    elif what == "contexts":
        scene.databases.contexts = [1, 0]
    elif what == "strays":
        scene.strays = [1, 0]
    else:
        new = {"sha256:n": 1}
        scene.databases.blobs = [{}, new]
        blob = agent_pb2.CapturedBlob(digest="sha256:n", size=1, data_digests=b"n" * 32)
        rounds.insert(0, [agent_pb2.CaptureEvent(blob=blob)])
    scene.agent.captures = rounds
    await scene.checkpointer().take()
    assert scene.agent.thawed == 2


async def test_a_daemon_that_never_holds_still_is_given_up(scene: Scene) -> None:
    scene.agent.state = agent_pb2.State(sequence=5)
    scene.agent.frozen_states = [agent_pb2.State(sequence=6)] * 100
    with pytest.raises(NotIdle, match="the daemon was at work"):
        await scene.checkpointer().take()
    assert scene.agent.thawed == checkpoint._ATTEMPTS


async def test_a_daemon_is_never_paused_while_somebody_waits_for_a_blob(scene: Scene) -> None:
    scene.agent.state = agent_pb2.State(breaks_pending=1)
    with pytest.raises(NotIdle, match="a blob is being fetched"):
        await scene.checkpointer().take()
    assert scene.agent.thawed == 0


async def test_a_break_in_the_pause_ends_it(scene: Scene) -> None:
    scene.agent.frozen_states = [agent_pb2.State(breaks_pending=1)]
    scene.agent.captures = [[DATABASES]]
    await scene.checkpointer().take()
    assert scene.agent.thawed == 2


async def test_what_could_not_be_captured_is_tried_again(scene: Scene) -> None:
    scene.agent.state = agent_pb2.State(snapshots=[row("a")])
    scene.agent.captures = [[skipped_event("a")], [tree_event("a")], [DATABASES]]
    picture = await scene.checkpointer().take()
    assert [tree is not None for _, tree in picture.snapshots] == [True]


async def test_what_can_never_be_captured_is_named(scene: Scene) -> None:
    scene.agent.state = agent_pb2.State(snapshots=[row("a")])
    scene.agent.captures = [[skipped_event("a")]] * 20
    with pytest.raises(NotCapturedError, match="a: changed"):
        await scene.checkpointer().take()
    assert len(scene.agent.captured) == 2


def stand_in(name: str) -> agent_pb2.CaptureEvent:
    event = tree_event(name)
    event.snapshot.left_out = "too large"
    return event


@pytest.mark.parametrize("restored", [False, True])
async def test_a_cache_mount_beyond_the_limits_is_empty_or_as_it_was(
    scene: Scene, *, restored: bool
) -> None:
    name = "buildkit/2/upper"
    if restored:
        scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.databases.found = Records({"upper": ["record"]}, {"upper": ("/c",)})
    scene.agent.state = agent_pb2.State(snapshots=[row(name, ACTIVE, touched=1)])
    scene.agent.captures = [[stand_in(name)], [DATABASES]]
    picture = await scene.checkpointer().take()
    assert picture.left_out == {name: "too large"}
    (_, tree) = picture.snapshots[0]
    assert tree is not None
    assert (tree.tree != b"t" * 32) == restored
    assert len(scene.api.pruned) == 2


async def test_of_excluded_cache_mounts_nothing_is_read(scene: Scene) -> None:
    scene.exclude = ["/secret*", "token"]
    ids = {one: [one] for one in ("a", "b", "c", "d")}
    scene.databases.found = Records(
        ids, {"a": ("/secret/x", "x"), "b": ("/c", "c"), "c": ("/t", "token")}
    )
    # The last one is in no record.
    active = [f"buildkit/1/{one}" for one in ("a", "b", "c", "d", "e")]
    scene.agent.state = agent_pb2.State(snapshots=[row(name, ACTIVE) for name in active])
    scene.agent.captures = [
        [tree_event(active[1]), tree_event(active[3])],
        [tree_event(active[number]) for number in (0, 2, 4)],
        [DATABASES],
    ]
    picture = await scene.checkpointer().take()
    whole, bare, _ = scene.agent.captured
    assert (list(whole.snapshots), whole.active, whole.bare) == (active[1:4:2], True, False)
    assert (list(bare.snapshots), bare.active, bare.bare) == (active[::2], True, True)
    assert (picture.excluded, picture.left_out) == (["/secret/x", "/t", "e"], {})
    assert [info.name for info, tree in picture.snapshots if tree] == active


async def test_without_exclusions_the_daemon_is_not_paused_for_them(scene: Scene) -> None:
    scene.agent.state = agent_pb2.State(snapshots=[row("buildkit/1/a", ACTIVE)])
    scene.agent.captures = [[tree_event("buildkit/1/a")], [DATABASES]]
    assert (await scene.checkpointer().take()).excluded == []
    assert scene.databases.copied_records == 0


async def test_a_daemon_that_cannot_be_paused_for_its_records(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def never(pid: int) -> AsyncIterator[None]:
        if pid:
            raise NotStopped("it sleeps")
        yield

    monkeypatch.setattr(cachemounts, "paused", never)
    scene.exclude = ["*"]
    scene.agent.state = agent_pb2.State(snapshots=[row("buildkit/1/a", ACTIVE)])
    with pytest.raises(NotIdle, match="it sleeps"):
        await scene.checkpointer().take()
    assert scene.agent.captured == []


async def test_layers_beyond_the_limits_are_pruned_with_what_is_on_them(scene: Scene) -> None:
    below, large, above = row("n/1/below"), row("n/2/large"), row("n/3/above", ACTIVE, touched=2)
    large.info.parent, above.info.parent = "n/1/below", "n/2/large"
    ids = {"below": ["b"], "large": ["l"], "above": ["a", "unfinalized"]}
    scene.databases.found = Records(ids, {})
    scene.agent.state = agent_pb2.State(snapshots=[below, large, above])
    scene.agent.frozen_states = [
        scene.agent.state,
        agent_pb2.State(snapshots=[below]),
    ]
    scene.agent.captures = [
        [tree_event("n/1/below"), stand_in("n/2/large")],
        [tree_event("n/3/above")],
        [tree_event("n/3/above")],
        [DATABASES],
    ]
    taker = scene.checkpointer()
    picture = await taker.take()
    assert [info.name for info, _ in picture.snapshots] == ["n/1/below"]
    assert (("id==l", "id==a", "id==unfinalized"), 0) in scene.api.pruned
    assert taker.pruned == {"n/2/large": "too large"}
    assert picture.left_out == {}


async def test_a_merge_that_holds_a_lost_layer_is_pruned_with_it(scene: Scene) -> None:
    linked, other = row("n/1/linked"), row("n/2/other")
    scene.databases.found = Records(
        {"linked": ["l"], "other": ["o"], "merge": ["merge"], "upon": ["upon"]},
        {},
        {"merge": ["o", "l"], "upon": ["merge"], "l": []},
    )
    scene.agent.state = agent_pb2.State(snapshots=[linked, other])
    scene.agent.frozen_states = [scene.agent.state, agent_pb2.State(snapshots=[other])]
    scene.agent.captures = [[stand_in("n/1/linked"), tree_event("n/2/other")], [DATABASES]]
    await scene.checkpointer().take()
    assert (("id==l", "id==merge", "id==upon"), 0) in scene.api.pruned


async def test_a_layer_that_cannot_be_pruned_is_named(scene: Scene) -> None:
    scene.databases.found = Records({"large": ["l"]}, {})
    scene.agent.state = agent_pb2.State(snapshots=[row("n/2/large")])
    scene.agent.captures = [[stand_in("n/2/large")]]
    with pytest.raises(NotCapturedError, match="n/2/large: too large, and its record cannot"):
        await scene.checkpointer().take()


async def test_what_was_in_a_lost_pack_is_captured_again(scene: Scene) -> None:
    root = scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.catalog = Catalog.from_root(root)
    scene.losses.packs |= {pack.digest for pack in root.packs}
    (blob,) = root.blobs
    scene.databases.blobs = [{blob.digest: blob.size}]
    scene.databases.found = Records({"upper": ["record"]}, {})
    lower, upper = row("buildkit/1/lower"), row("buildkit/2/upper")
    upper.residency = agent_pb2.RESIDENCY_LAZY
    captured = agent_pb2.CaptureEvent(
        blob=agent_pb2.CapturedBlob(digest=blob.digest, size=blob.size, mtime_ns=6)
    )
    pack = await asyncio.to_thread(write_pack, scene.directory, [b"new"])
    tree = tree_event("buildkit/1/lower")
    tree.snapshot.tree_digests = tree.snapshot.data_digests = pack.chunk_digests
    scene.agent.state = agent_pb2.State(snapshots=[lower, upper])
    scene.agent.frozen_states = [scene.agent.state, agent_pb2.State(snapshots=[lower])]
    scene.agent.captures = [[pack_event(pack), tree, captured], [DATABASES]]
    taker = scene.checkpointer()
    picture = await taker.take()
    assert scene.agent.forgotten == [root.chunk_digests]
    assert list(scene.agent.captured[0].snapshots) == ["buildkit/1/lower"]
    assert list(scene.agent.captured[0].blobs) == [blob.digest]
    assert taker.pruned == {"buildkit/2/upper": "its bytes are lost"}
    assert [one.mtime_ns for one in picture.blobs] == [6]


async def test_a_cache_mount_of_a_lost_pack_that_is_on_disk_is_stored_again(scene: Scene) -> None:
    root = scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.catalog = Catalog.from_root(root)
    scene.losses.packs |= {pack.digest for pack in root.packs}
    name = "buildkit/2/upper"
    mount = row(name, ACTIVE)
    pack = await asyncio.to_thread(write_pack, scene.directory, [b"new"])
    tree = tree_event(name)
    tree.snapshot.tree_digests = tree.snapshot.data_digests = pack.chunk_digests
    scene.agent.state = agent_pb2.State(snapshots=[mount])
    scene.agent.captures = [[pack_event(pack), tree], [DATABASES]]
    picture = await scene.checkpointer().take()
    assert list(scene.agent.captured[0].snapshots) == [name]
    assert scene.agent.captured[0].active
    assert [tree and tree.tree for _, tree in picture.snapshots] == [pack.chunk_digests]


async def test_a_lost_cache_mount_is_pruned_and_not_captured(scene: Scene) -> None:
    root = scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.catalog = Catalog.from_root(root)
    scene.losses.packs |= {pack.digest for pack in root.packs}
    mount = row("buildkit/2/upper", ACTIVE, touched=1)
    mount.residency = agent_pb2.RESIDENCY_LAZY
    scene.databases.found = Records({"upper": ["record"]}, {"upper": ("/c",)})
    scene.agent.state = agent_pb2.State(snapshots=[mount])
    scene.agent.frozen_states = [scene.agent.state, agent_pb2.State()]
    scene.agent.captures = [[DATABASES]]
    taker = scene.checkpointer()
    await taker.take()
    assert taker.pruned == {"buildkit/2/upper": "its bytes are lost"}
    assert (("id==record",), 0) in scene.api.pruned


async def test_a_layer_that_no_record_has_prunes_nothing(scene: Scene) -> None:
    scene.agent.state = agent_pb2.State(snapshots=[row("n/2/large")])
    scene.agent.captures = [[stand_in("n/2/large")]]
    taker = scene.checkpointer()
    with pytest.raises(NotCapturedError, match="n/2/large: too large, and no record has it"):
        await taker.take()
    assert taker.pruned == {}


async def test_a_daemon_is_never_asked_to_prune_everything(tmp_path: Path) -> None:
    api = BuildKit(tmp_path / "nobody")
    try:
        with pytest.raises(ValueError, match="whole cache"):
            await api.prune([])
    finally:
        await api.close()


async def test_a_tree_that_refers_to_a_lost_pack_is_not_published(scene: Scene) -> None:
    scene.losses.packs |= {b"p" * 32}
    scene.agent.state = agent_pb2.State(snapshots=[row("a")])
    scene.agent.captures = [[tree_event("a")], [DATABASES]]
    with pytest.raises(NotCapturedError, match="a lost pack"):
        await scene.checkpointer().take()


async def test_a_blob_that_refers_to_a_lost_pack_is_not_published(scene: Scene) -> None:
    scene.losses.packs.add(b"p" * 32)
    scene.databases.blobs = [{"sha256:b": 7}]
    blob = agent_pb2.CapturedBlob(digest="sha256:b", size=7, data_digests=b"b" * 32)
    scene.agent.captures = [[agent_pb2.CaptureEvent(blob=blob)], [DATABASES]]
    with pytest.raises(NotCapturedError, match=r"sha256:b: .* a lost pack"):
        await scene.checkpointer().take()


async def test_what_is_found_lost_meanwhile_begins_it_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.catalog = Catalog.from_root(root)
    verified: list[frozenset[str]] = []

    def finding(_: Path, snapshots: frozenset[str]) -> None:
        verified.append(snapshots)
        scene.losses.packs |= {pack.digest for pack in root.packs}

    monkeypatch.setattr(scene.databases, "verify", finding)
    pack = await asyncio.to_thread(write_pack, scene.directory, [b"new"])
    tree = tree_event("buildkit/1/lower")
    tree.snapshot.tree_digests = tree.snapshot.data_digests = pack.chunk_digests
    scene.agent.state = agent_pb2.State(snapshots=[row("buildkit/1/lower")])
    scene.agent.captures = [[DATABASES], [pack_event(pack), tree], [DATABASES]]
    picture = await scene.checkpointer().take()
    assert len(verified) == 2
    assert [tree and tree.tree for _, tree in picture.snapshots] == [pack.chunk_digests]
    assert not picture.outdated()
    scene.losses.packs.add(b"p" * 32)
    assert picture.outdated()


@pytest.mark.parametrize("own", [False, True])
async def test_beside_a_corrupt_chunk_what_is_not_on_disk_stays(scene: Scene, *, own: bool) -> None:
    """A pack that can be read has the chunks of others; a snapshot whose own is corrupt is lost."""
    root = scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.catalog = Catalog.from_root(root)
    upper = next(s for s in root.snapshots if s.info.name == "buildkit/2/upper")
    table = ChunkTable(root)
    mine = {*upper.tree.tree, *upper.tree.data}
    number = max(mine) if own else min(set(range(len(table))) - mine)
    scene.losses.corrupt(table[number])
    assert table[min(mine)].pack in scene.losses.suspects
    lazy = row("buildkit/2/upper")
    lazy.residency = agent_pb2.RESIDENCY_LAZY
    scene.databases.found = Records({"upper": ["record"]}, {})
    scene.agent.state = agent_pb2.State(snapshots=[lazy])
    if own:
        scene.agent.frozen_states = [scene.agent.state, agent_pb2.State()]
    scene.agent.captures = [[DATABASES]]
    taker = scene.checkpointer()
    picture = await taker.take()
    assert list(taker.pruned) == (["buildkit/2/upper"] if own else [])
    assert len(picture.snapshots) == (not own)
    # What is captured from now on is stored anew.
    assert len(scene.agent.forgotten) == 1


async def test_what_was_filled_a_moment_ago_stays_where_it_is(scene: Scene) -> None:
    root = scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.catalog = Catalog.from_root(root)
    table = ChunkTable(root)
    upper = next(s for s in root.snapshots if s.info.name == "buildkit/2/upper")
    mine = {*upper.tree.tree, *upper.tree.data}
    scene.losses.corrupt(table[min(set(range(len(table))) - mine)])
    lazy = row("buildkit/2/upper")
    lazy.residency = agent_pb2.RESIDENCY_LAZY
    scene.agent.state = agent_pb2.State(snapshots=[lazy])
    scene.agent.frozen_states = [agent_pb2.State(snapshots=[row("buildkit/2/upper")])]
    scene.agent.captures = [[DATABASES]]
    picture = await scene.checkpointer().take()
    assert [tree and tree.usage_bytes for _, tree in picture.snapshots] == [7]


async def test_what_was_lost_and_came_back_is_captured(scene: Scene) -> None:
    root = scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.catalog = Catalog.from_root(root)
    scene.losses.packs |= {pack.digest for pack in root.packs}
    name = "buildkit/2/upper"
    lazy = row(name)
    lazy.residency = agent_pb2.RESIDENCY_LAZY
    pack = await asyncio.to_thread(write_pack, scene.directory, [b"new"])
    tree = tree_event(name)
    tree.snapshot.tree_digests = tree.snapshot.data_digests = pack.chunk_digests
    here = agent_pb2.State(snapshots=[row(name)])
    scene.agent.states = [agent_pb2.State(snapshots=[lazy])]
    scene.agent.state = here
    scene.agent.captures = [[pack_event(pack), tree], [DATABASES]]
    picture = await scene.checkpointer().take()
    assert [tree and tree.tree for _, tree in picture.snapshots] == [pack.chunk_digests]
    assert scene.agent.thawed == 2


async def test_databases_of_an_earlier_checkpoint_do_not_stand_in(scene: Scene) -> None:
    scene.agent.captures = [[DATABASES], [skipped_event("")]]
    taker = scene.checkpointer()
    await taker.take()
    with pytest.raises(NotCapturedError, match="databases"):
        await taker.take()


async def test_only_what_the_store_lacks_is_captured(scene: Scene) -> None:
    scene.restored = await asyncio.to_thread(make_root, scene.directory)
    (blob,) = scene.restored.blobs
    scene.databases.blobs = [{blob.digest: blob.size}]
    scene.agent.state = agent_pb2.State(
        snapshots=[
            row("buildkit/1/lower"),
            row("buildkit/2/upper", ACTIVE),
            row("new"),
        ]
    )
    scene.agent.captures = [[tree_event("new")], [DATABASES]]
    picture = await scene.checkpointer().take()
    assert [list(request.snapshots) for request in scene.agent.captured] == [["new"], []]
    assert len(picture.blobs) == 1
    assert picture.snapshots[0][0].usage_bytes == 7


async def test_a_mounted_active_snapshot_is_captured_again(scene: Scene) -> None:
    scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.agent.state = agent_pb2.State(snapshots=[row("buildkit/2/upper", ACTIVE, touched=1)])
    scene.agent.captures = [[tree_event("buildkit/2/upper")], [DATABASES]]
    picture = await scene.checkpointer().take()
    assert picture.snapshots[0][0].usage_bytes == 3


async def test_an_agent_that_dies_in_the_pause_leaves_a_daemon_that_goes_on(scene: Scene) -> None:
    scene.agent.freeze_fails = True
    with pytest.raises(grpc.aio.AioRpcError):
        await scene.checkpointer().take()


async def test_databases_that_a_daemon_would_refuse_are_not_published(scene: Scene) -> None:
    scene.databases.bad = "a bad page"
    with pytest.raises(CorruptObject, match="a bad page"):
        await scene.checkpointer().take()
    assert scene.agent.captured == []


async def test_packs_that_the_store_does_not_take(scene: Scene) -> None:
    pack = await asyncio.to_thread(write_pack, scene.directory, [b"content"])
    scene.script = [Rule("put_file", "*", 0, Fail())]
    scene.agent.captures = [[pack_event(pack), DATABASES]]
    with pytest.raises(StoreError):
        await scene.checkpointer().take()
