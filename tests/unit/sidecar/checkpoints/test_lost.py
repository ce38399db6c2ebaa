"""What the store has lost: stored again from the disk, or pruned, and never referred to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.cache.catalog import Catalog
from buildsvc.cache.roots import ChunkTable
from sidecar.capture import NotCapturedError
from sidecar.databases import Records
from tests.unit.cache.fakes import make_root, write_pack
from tests.unit.sidecar.checkpoints.scene import ACTIVE, DATABASES, Scene, row, stand_in
from tests.unit.sidecar.test_capture import pack_event, tree_event


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


@pytest.mark.parametrize("how", ["a layer's", "nobody's", "on disk", "readable"])
async def test_a_lost_blob_is_forgotten_unless_it_is_a_layers(scene: Scene, how: str) -> None:
    root = scene.restored = await asyncio.to_thread(make_root, scene.directory)
    scene.catalog = Catalog.from_root(root)
    (blob,) = root.blobs
    (at,) = ChunkTable(root).locate(blob.data)
    if how == "readable":
        scene.losses.chunks.add((b"another", at.pack))
    else:
        scene.losses.corrupt(at)
    scene.databases.blobs = [{blob.digest: blob.size}]
    if how != "on disk":
        lazy = agent_pb2.BlobState(digest=blob.digest, residency=agent_pb2.RESIDENCY_LAZY)
        scene.agent.state = agent_pb2.State(blobs=[lazy])
    if how == "a layer's":
        scene.databases.found = Records({"upper": ["record"]}, {}, {}, {blob.digest: ["record"]})
    again = agent_pb2.CapturedBlob(digest=blob.digest, size=blob.size, data_digests=b"")
    captured = [agent_pb2.CaptureEvent(blob=again)] if how == "on disk" else []
    scene.agent.captures = [captured, [DATABASES]] if captured else [[DATABASES]]
    picture = await scene.checkpointer().take()
    assert scene.databases.forgotten == ({blob.digest} if how == "nobody's" else frozenset())
    assert [one.digest for one in picture.blobs] == [blob.digest] * (how != "nobody's")


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
