"""The builds of an epoch: which begin and end, told once, whatever the daemon says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar import builds, databases
from sidecar.buildkit import BuildKit
from sidecar.builds import Builds
from sidecar.restore import Restorer
from sidecar.room import Room
from sidecar.status import Advice
from tests.unit.cache import boltfiles
from tests.unit.sidecar.epochs.scene import Scene


async def test_what_earlier_pods_built_is_no_news(scene: Scene) -> None:
    scene.paths.buildkit.mkdir(parents=True, exist_ok=True)
    (scene.paths.buildkit / databases.HISTORY).write_bytes(boltfiles.history("old", "older"))
    scene.namespace.daemon.remembers("old")
    # A client in the backlog may be quicker than our first question.
    scene.namespace.daemon.remembers("new")
    async with scene.serving():
        assert await scene.epoch.active_builds() == frozenset()
        assert (await scene.epoch.finished.next(0)).ref == "new"
        assert not scene.epoch.finished.after(1)


async def test_a_build_ends_once_however_often_it_is_told(scene: Scene) -> None:
    async with scene.serving():
        await scene.begins("build")
        scene.namespace.daemon.ends("build", error="exit code: 1")
        # Asked before the daemon's event has come.
        await scene.epoch.active_builds()
        scene.namespace.daemon.tells_again()
        await scene.begins("next")
        assert (await scene.epoch.finished.next(0)).error == "exit code: 1"
        assert not scene.epoch.finished.after(1)
        assert scene.status.counts.family("builds") == {"failed": 1}


async def test_a_build_without_a_result_on_a_full_disk_has_failed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon has no room to store its error."""
    async with scene.serving():
        monkeypatch.setattr(Room, "free", 0)
        await scene.begins("build")
        scene.namespace.daemon.ends("build")
        assert (await scene.epoch.finished.next(0)).error == "the disk is full"
        assert scene.status.advice is Advice.BUILD_FAILED
        monkeypatch.setattr(Room, "free", 1 << 30)
        await scene.begins("empty image")
        scene.namespace.daemon.ends("empty image")
        assert not (await scene.epoch.finished.next(1)).error
    assert not scene.epoch.lost.done()


async def test_a_restored_root_gives_way_to_a_build_that_lacks_room(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.epoch.open()
    await scene.load()
    async with scene.epoch.serving():
        await scene.epoch.start_daemon()
        await scene.begins("fails")
        scene.namespace.daemon.ends("fails", error="exit code: 1")
        assert (await scene.epoch.finished.next(0)).error == "exit code: 1"
        assert not scene.epoch.lost.done()
        monkeypatch.setattr(Room, "free", 0)
        await scene.begins("lacks room")
        scene.namespace.daemon.ends("lacks room", error="write /x: no space left on device")
        await scene.epoch.finished.next(1)
        # Whoever ran the build asks at its end.
        assert scene.status.advice is Advice.RUN_AGAIN
        assert "full disk" in await scene.epoch.lost


async def test_what_a_build_commits_is_packed_at_its_end(scene: Scene) -> None:
    scene.epoch._settings = replace(scene.epoch._settings, publish="always")
    async with scene.serving():
        captures = scene.epoch._captures
        assert captures is not None
        await scene.begins("build")
        scene.epoch._agent_event(agent_pb2.Event(committed="layer"))
        await captures.capture(agent_pb2.CaptureRequest(snapshots=["other"]))
        scene.namespace.daemon.ends("build")
        await scene.epoch.finished.next(0)
        assert await captures.drained()
    requests = scene.namespace.agent.captured
    assert [list(request.snapshots) for request in requests] == [["other"], ["layer"]]


async def test_what_nobody_asks_for_waits_for_builds_and_publications(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(Restorer, "hold", lambda _, *, held: told.append(held))
    await scene.epoch.open()
    await scene.load()
    async with scene.epoch.serving():
        await scene.epoch.start_daemon()
        await scene.begins("build")
        scene.epoch.inherited.publishes(under_way=True)
        scene.namespace.daemon.ends("build")
        await scene.epoch.finished.next(0)
        assert told == [True, True, True]
        scene.epoch.inherited.publishes(under_way=False)
    assert told[3:] == [False]


async def test_idle_is_when_the_last_build_has_ended(scene: Scene) -> None:
    async with scene.serving():
        await scene.begins("one")
        await scene.begins("two")
        idle = asyncio.create_task(scene.epoch.idle())
        scene.namespace.daemon.ends("one")
        await scene.status.until(lambda status: status.counts.family("builds")["ok"] == 1)
        assert not idle.done()
        scene.namespace.daemon.ends("two")
        await idle


async def test_a_build_that_ends_between_two_answers_is_not_waited_for(scene: Scene) -> None:
    async with scene.serving():
        await scene.begins("build")
        scene.namespace.daemon.ends_when_asked = ["build"]
        await scene.epoch.idle()
        assert scene.status.counts.family("builds") == {"ok": 1}


async def test_a_build_that_died_with_its_daemon_is_not_waited_for(scene: Scene) -> None:
    async with scene.serving():
        await scene.begins("build")
        idle = asyncio.create_task(scene.epoch.idle())
        await scene.died_and_answers_again()
        await idle
        assert (await scene.epoch.finished.next(0)).error == "buildkitd died"


async def test_a_build_whose_end_could_not_be_stored_is_not_waited_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "_LOOK_AGAIN", 0.01)
    async with scene.serving():
        await scene.begins("build")
        idle = asyncio.create_task(scene.epoch.idle())
        scene.namespace.daemon.forgets("build")
        await idle
        assert (await scene.epoch.finished.next(0)).error == builds._UNTOLD
        assert scene.status.counts.family("builds") == {"failed": 1}


async def test_an_end_that_could_not_be_stored_for_want_of_room_is_the_caches_fault(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "_LOOK_AGAIN", 0.01)
    await scene.epoch.open()
    await scene.load()
    async with scene.epoch.serving():
        await scene.epoch.start_daemon()
        await scene.begins("build")
        # What the build wrote is deleted already, but that is not much.
        monkeypatch.setattr(Room, "free", 2 << 20)
        scene.namespace.daemon.forgets("build")
        await scene.epoch.finished.next(0)
        assert scene.status.advice is Advice.RUN_AGAIN
        assert "full disk" in await scene.epoch.lost


async def test_builds_that_ran_when_the_root_was_lost_have_ended(scene: Scene) -> None:
    async with scene.serving():
        await scene.begins("build")
        scene.namespace.agent.happens.put_nowait(agent_pb2.Event(lost="a lease broke"))
        await scene.epoch.lost
    await scene.epoch.close(0)
    assert scene.status.counts.family("builds") == {"failed": 1}


async def test_what_is_known_of_a_build_is_no_news(scene: Scene) -> None:
    told: list[int] = []
    api = BuildKit(scene.paths.buildkit_socket)
    seen = Builds(api, scene.status, Room(Path("/")), told=told.append, lacked_room=str)
    async with scene.serving():
        scene.namespace.daemon.remembers("one")
        scene.namespace.daemon.begins("two")
        for _ in range(3):
            assert await seen.active() == {"two"}
        assert told == [1]
    await api.close()


async def test_a_start_that_is_told_after_the_end_begins_nothing(scene: Scene) -> None:
    async with scene.serving():
        await scene.begins("build")
        scene.namespace.daemon.ends("build")
        await scene.epoch.active_builds()
        scene.namespace.daemon.tells_late()
        await scene.begins("next")
        spans = [span for span in scene.status.timeline if span.name == "build"]
        assert [span.outcome for span in spans] == ["ok"]


async def test_a_daemon_that_is_gone_has_no_builds(scene: Scene) -> None:
    await scene.epoch.open()
    await scene.epoch.start_daemon()
    scene.namespace.daemon.begins("build")
    await scene.namespace.daemon_dies()
    assert await scene.epoch.active_builds() == frozenset()
