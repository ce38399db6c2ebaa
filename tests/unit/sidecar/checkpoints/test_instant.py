"""A picture is of one instant, whatever comes in between, and the daemon goes on."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.errors import CorruptObject, StoreError
from buildsvc.store.faults import Fail, Rule
from sidecar import checkpoint
from sidecar.capture import NotCapturedError
from sidecar.checkpoint import NotIdle
from tests.unit.cache.fakes import make_root, write_pack
from tests.unit.sidecar.checkpoints.scene import ACTIVE, DATABASES, VIEW, Scene, row
from tests.unit.sidecar.test_capture import pack_event, skipped_event, tree_event


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


async def test_no_picture_waits_for_the_next_builds_end(scene: Scene) -> None:
    scene.next_begins = True
    with pytest.raises(NotIdle, match="a build has begun"):
        await scene.checkpointer().take()


@pytest.mark.parametrize("what", ["snapshots", "databases", "blobs", "contexts", "strays", "steps"])
async def test_whatever_came_in_between_begins_it_again(
    scene: Scene, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    elif what == "steps":
        running = [[4711], []]
        monkeypatch.setattr(checkpoint, "children", lambda _: running.pop(0))
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


async def test_nothing_is_pruned_on_a_full_disk(scene: Scene) -> None:
    scene.databases.full = True
    with pytest.raises(OSError, match="No space left"):
        await scene.checkpointer().take()
    assert not scene.api.pruned
