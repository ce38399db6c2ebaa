"""What is left out of a picture: cache mounts, and layers whose records are pruned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar import cachemounts
from sidecar.buildkit import BuildKit
from sidecar.capture import NotCapturedError
from sidecar.checkpoint import NotIdle
from sidecar.databases import Records
from sidecar.pause import NotStopped
from tests.unit.cache.fakes import make_root
from tests.unit.sidecar.checkpoints.scene import ACTIVE, DATABASES, Scene, row, stand_in
from tests.unit.sidecar.test_capture import tree_event


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


async def test_a_layer_that_cannot_be_pruned_is_named(scene: Scene) -> None:
    scene.databases.found = Records({"large": ["l"]}, {})
    scene.agent.state = agent_pb2.State(snapshots=[row("n/2/large")])
    scene.agent.captures = [[stand_in("n/2/large")]]
    with pytest.raises(NotCapturedError, match="n/2/large: too large, and its record cannot"):
        await scene.checkpointer().take()


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
