"""Laying a generation's state into an empty root, and what may be captured from one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks
from buildsvc.errors import CorruptObject
from sidecar.agent.blobs import ContentBlobs
from sidecar.agent.captures import Captures
from sidecar.agent.events import Events
from sidecar.agent.index import Kind, NotFound, Row
from sidecar.agent.load import Loading
from sidecar.agent.ports import FillResult
from sidecar.agent.residency import Residency, blob
from sidecar.agent.snapshotter import Snapshotter
from sidecar.agent.state import KINDS
from sidecar.agent.usage import Usage

_SHA = "sha256:" + "a" * 64


class Rows(Snapshotter):
    """Keeps rows, and which of them are held."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.holding: list[str] = []

    async def restore(self, rows: Sequence[Row]) -> None:
        self.rows = {row.name: row for row in rows}

    def stat(self, name: str) -> Row:
        if name not in self.rows:
            raise NotFound(name)
        return self.rows[name]

    def layer(self, row: Row) -> Path:
        return Path(f"/layers/{row.id}")

    @contextmanager
    def held(self, row: Row) -> Iterator[None]:
        self.holding.append(row.name)
        yield
        self.holding.remove(row.name)


class Packer:
    """Notes what it is asked to capture."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.known: list[Path] = []
        self.captured: list[tuple[str, bool, bool]] = []

    async def forget(self, digests: bytes) -> None:
        raise AssertionError(f"{digests!r} should not be forgotten")

    async def know(self, root: Path) -> None:
        self.known.append(root)

    async def capture_snapshot(
        self,
        name: str,
        path: Path,  # noqa: ARG002
        *,
        idle: bool,  # noqa: ARG002
        again: bool,
        bare: bool = False,
    ) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        assert name in self.rows.holding
        self.captured.append((name, again, bare))
        yield agent_pb2.CaptureEvent(snapshot=agent_pb2.CapturedTree(name=name))

    async def capture_blob(
        self,
        digest: str,
        path: Path,
        *,
        idle: bool,  # noqa: ARG002
    ) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        assert path.name in digest
        yield agent_pb2.CaptureEvent(blob=agent_pb2.CapturedBlob(digest=digest))

    async def capture_directory(
        self,
        path: Path,  # noqa: ARG002
        *,
        idle: bool,  # noqa: ARG002
    ) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        yield agent_pb2.CaptureEvent(databases=agent_pb2.CapturedTree())

    async def flush(self) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        yield agent_pb2.CaptureEvent(pack=agent_pb2.PackFile(path="p"))

    async def release(self, path: Path) -> None: ...


class Scene:
    def __init__(self, directory: Path, threads: ThreadPoolExecutor) -> None:
        self.directory = directory
        self.rows = Rows()
        self.packer = Packer(self.rows)
        self.residency = Residency(Events())
        self.blobs = ContentBlobs(directory / "bk", directory / "scratch", None, threads)
        self.root = cache_pb2.Root(format_version=1)

    def snapshot(
        self, name: str, parent: str = "", kind: Kind = Kind.COMMITTED, *, tree: bool = True
    ) -> cache_pb2.Snapshot:
        info = cache_pb2.SnapshotInfo(name=name, parent=parent, kind=KINDS[kind])
        info.usage_bytes, info.usage_inodes = 4096, 3
        made = self.root.snapshots.add(info=info)
        if tree:
            made.tree.SetInParent()
        return made

    def chunk(self, data: bytes) -> tuple[int, bytes]:
        stored = chunks.encode(data)
        self.root.chunk_digests += chunks.digest(data)
        self.root.chunk_lengths.append(len(data))
        return len(self.root.chunk_lengths) - 1, stored

    async def load(self) -> agent_pb2.LoadResponse:
        path = self.directory / "root"
        path.write_bytes(self.root.SerializeToString())
        request = agent_pb2.LoadRequest(root_path=str(path), lease_blobs=True)
        loading = Loading(
            self.rows,
            self.residency,
            packer=self.packer,
            blobs=self.blobs,
        )
        return await loading.run(request)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    with ThreadPoolExecutor(1) as threads:
        yield Scene(tmp_path, threads)


async def test_rows_come_with_their_usage_and_without_their_bytes(scene: Scene) -> None:
    scene.snapshot("base")
    scene.snapshot("cache", "base", Kind.ACTIVE)
    scene.snapshot("view", "base", Kind.VIEW, tree=False)
    answer = await scene.load()
    assert answer.snapshots == 3
    rows = scene.rows.rows
    assert [(r.id, r.lazy, r.usage) for r in rows.values()] == [
        (1, True, Usage(4096, 3)),
        (2, True, Usage(4096, 3)),
        (3, False, Usage(4096, 3)),
    ]
    assert scene.packer.known == [scene.directory / "root"]
    assert not (scene.directory / "tree").exists()
    assert not (scene.directory / "segment").exists()


async def test_an_active_snapshot_without_a_tree_begins_empty(scene: Scene) -> None:
    scene.snapshot("cache", "", Kind.ACTIVE, tree=False).info.ClearField("usage_bytes")
    await scene.load()
    assert not scene.rows.rows["cache"].lazy


def _no_parent(scene: Scene) -> None:
    scene.snapshot("x", "nowhere")


def _cycle(scene: Scene) -> None:
    scene.snapshot("x", "y")
    scene.snapshot("y", "x")


def _active_parent(scene: Scene) -> None:
    scene.snapshot("x", kind=Kind.ACTIVE)
    scene.snapshot("y", "x")


def _twice(scene: Scene) -> None:
    scene.snapshot("x")
    scene.snapshot("x")


def _without_tree(scene: Scene) -> None:
    scene.snapshot("x", tree=False)


def _without_name(scene: Scene) -> None:
    scene.snapshot("")


def _without_kind(scene: Scene) -> None:
    scene.snapshot("x").info.kind = cache_pb2.SNAPSHOT_KIND_UNSPECIFIED


def _blob_beyond_the_chunks(scene: Scene) -> None:
    scene.root.blobs.add(digest=_SHA, data=[7])


@pytest.mark.parametrize(
    "spoil",
    [
        _no_parent,
        _cycle,
        _active_parent,
        _twice,
        _without_tree,
        _without_name,
        _without_kind,
        _blob_beyond_the_chunks,
    ],
)
async def test_a_generation_that_cannot_be_is_refused(scene: Scene, spoil: object) -> None:
    assert callable(spoil)
    spoil(scene)
    with pytest.raises(CorruptObject):
        await scene.load()
    assert not scene.rows.rows


async def test_blobs_that_are_not_leased_appear_when_they_are_whole(scene: Scene) -> None:
    data = [b"x" * 70000, b"y" * 5]
    numbered = [scene.chunk(each) for each in data]
    scene.root.blobs.add(digest=_SHA, size=70005, mtime_ns=5, data=[n for n, _ in numbered])
    answer = await scene.load()
    assert answer.blobs_leased == 0
    assert answer.leases_unavailable
    assert not scene.residency.is_local(blob(_SHA))
    path = scene.blobs.path(_SHA)
    segment = agent_pb2.Segment(path=str(scene.directory / "segment"))
    (scene.directory / "segment").write_bytes(numbered[1][1] + b"junk" + numbered[0][1])
    segment.chunks.add(chunk=1, offset=0, stored=len(numbered[1][1]))
    segment.chunks.add(chunk=0, offset=len(numbered[1][1]), stored=len(numbered[0][1]))
    result = await scene.blobs.fill(_SHA, segment)
    assert result == FillResult(0, 5, [0])
    assert not path.exists()
    segment.chunks[1].offset += 4
    assert (await scene.blobs.fill(_SHA, segment)).corrupt == []
    await scene.blobs.finish(_SHA)
    assert path.read_bytes() == b"".join(data)
    assert path.stat().st_mtime_ns == 5
    (state,) = scene.blobs.state()
    assert state.residency == agent_pb2.RESIDENCY_LOCAL
    with pytest.raises(NotFound):
        scene.blobs.chunks("sha256:nothing")


async def test_what_cannot_be_captured_is_skipped(scene: Scene) -> None:
    scene.rows.rows = {
        row.name: row
        for row in (
            Row(1, "done", "", Kind.COMMITTED, {}, 1, 1),
            Row(2, "lazy", "", Kind.COMMITTED, {}, 1, 1, lazy=True),
            Row(3, "active", "", Kind.ACTIVE, {}, 1, 1),
            Row(4, "view", "done", Kind.VIEW, {}, 1, 1),
        )
    }
    captures = Captures(scene.rows, packer=scene.packer, blobs=scene.blobs)
    names = ["done", "lazy", "active", "view", "nowhere"]
    request = agent_pb2.CaptureRequest(
        snapshots=names, blobs=[_SHA], databases_dir="/d", flush=True
    )
    events = [event async for event in captures.run(request)]
    assert [event.WhichOneof("event") for event in events] == [
        "snapshot",
        *["skipped"] * 4,
        "blob",
        "databases",
        "pack",
    ]
    assert [e.skipped.object.name for e in events if e.HasField("skipped")] == names[1:]
    for bare in (False, True):
        request = agent_pb2.CaptureRequest(snapshots=["active"], active=True, bare=bare)
        assert [event.snapshot.name async for event in captures.run(request)] == ["active"]
    assert scene.packer.captured == [
        ("done", False, False),
        ("active", True, False),
        ("active", True, True),
    ]
    assert not scene.rows.holding
