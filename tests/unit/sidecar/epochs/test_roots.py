"""One root from start to end: when it is given up, and what is answered by starting again."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.cache.leases import leased_roots
from buildsvc.errors import CorruptObject, EnvironmentUnfit
from sidecar.daemon import Lost
from sidecar.guardclient import NamespaceLostError, StartError
from sidecar.launch import Launch
from sidecar.paths import EpochPaths
from sidecar.settings import Settings
from sidecar.status import Advice
from tests.unit.sidecar.epochs.scene import Scene
from tests.unit.sidecar.test_locate import MINE


@pytest.mark.parametrize("reads", ["layers", "all"])
async def test_cache_mounts_of_another_domain(
    settings: Settings, launch: Launch, paths: EpochPaths, reads: Literal["layers", "all"]
) -> None:
    foreign = replace(settings, trust_domain="forks", fork_reads=reads)
    it = Scene(foreign, launch, paths)
    try:
        if reads == "all":
            await it.fetch()
            return
        # The one database of this generation knows of none, and is not asked where all is read.
        with pytest.raises(CorruptObject, match="what the snapshots are for"):
            await it.fetch()
    finally:
        await it.epoch.close(0)


async def test_an_agent_that_cannot_be_started(scene: Scene) -> None:
    scene.namespace.agent_starts = False
    with pytest.raises(EnvironmentUnfit, match=r"agent does not start.*no such program"):
        await scene.epoch.open()


async def test_an_agent_that_dies_before_it_answers(scene: Scene) -> None:
    scene.namespace.agent_answers = False
    with pytest.raises(EnvironmentUnfit, match=r"agent does not start.*died"):
        await scene.epoch.open()


async def test_clients_depend_on_a_daemon_that_has_answered(scene: Scene) -> None:
    await scene.epoch.open()
    before = scene.epoch.admitted
    await scene.epoch.start_daemon()
    assert (before, scene.epoch.admitted) == (False, True)
    assert not scene.epoch.lost.done()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (1, "status 1 at its start"),
        (StartError("start-daemon: no such program"), "no such program"),
        (NamespaceLostError("the guard did not answer"), "did not answer"),
    ],
)
async def test_a_daemon_that_does_not_start_loses_the_root(
    scene: Scene, end: int | Exception, reason: str
) -> None:
    scene.namespace.daemons = [end]
    await scene.epoch.open()
    with pytest.raises(Lost, match=reason):
        await scene.epoch.start_daemon()
    assert not scene.epoch.admitted


async def test_an_agent_that_dies_while_the_daemon_starts(scene: Scene) -> None:
    await scene.epoch.open()
    await scene.namespace.agent_dies()
    with pytest.raises(Lost):
        await scene.epoch.start_daemon()
    assert not scene.epoch.admitted


async def test_what_the_agent_refuses_has_spoilt_the_root(scene: Scene) -> None:
    scene.namespace.agent.load_fails = "a parent is missing"
    await scene.epoch.open()
    with pytest.raises(Lost, match="a parent is missing"):
        await scene.load()
    # No cold daemon may be started on it.
    assert scene.epoch.inherited.root is not None


async def test_where_leases_do_not_work_blobs_are_needed_first(scene: Scene) -> None:
    await scene.epoch.open()
    assert not scene.epoch.inherited.needs_blobs
    scene.namespace.agent.loaded = agent_pb2.LoadResponse(leases_unavailable="no such call")
    await scene.load()
    assert scene.epoch.inherited.needs_blobs


async def test_a_complete_restore_that_cannot_be_completed(scene: Scene) -> None:
    scene.namespace.agent.refused = {"layer"}
    await scene.epoch.open()
    await scene.load()
    with pytest.raises(Lost, match="layer"):
        await scene.epoch.inherited.complete(lambda _: True)


async def test_a_daemon_is_started_again_on_the_same_root(scene: Scene) -> None:
    async with scene.serving():
        for number in (1, 2):
            await scene.begins(f"build-{number}")
            await scene.died_and_answers_again()
            await scene.begins(f"after-{number}")
            scene.namespace.daemon.ends(f"after-{number}")
            await scene.epoch.finished.next(2 * number - 1)
        ended = [(build.ref, build.error) for build in scene.epoch.finished.after(0)]
        assert ended == [
            ("build-1", "buildkitd died"), ("after-1", ""),
            ("build-2", "buildkitd died"), ("after-2", ""),
        ]  # fmt: skip
        assert not scene.epoch.lost.done()
        assert scene.status.counts.family("builds") == {"failed": 2, "ok": 2}
        assert scene.status.counts.plain["daemon_exits"] == 2
        # Before clients reach it again, it has forgotten the directories that they had sent.
        assert scene.namespace.daemon.pruned == ["type==source.local"] * 2
    assert scene.namespace.asked.count("start") == 1
    assert scene.namespace.asked.count("start-daemon") == 5


async def test_a_daemon_that_keeps_dying_loses_the_root(scene: Scene) -> None:
    async with scene.serving():
        await scene.died_and_answers_again(-11)
        await scene.died_and_answers_again(-11)
        await scene.namespace.daemon_dies(-11)
        assert "3 times, now with status -11" in await scene.epoch.lost
    assert scene.namespace.asked.count("start-daemon") == 5


async def test_a_daemon_that_ends_again_while_it_starts_again(scene: Scene) -> None:
    scene.namespace.daemons = [None, -9]
    async with scene.serving():
        await scene.died_and_answers_again()
        assert not scene.epoch.lost.done()
        assert scene.status.counts.plain["daemon_exits"] == 2
    assert scene.namespace.asked.count("start-daemon") == 4


async def test_a_daemon_that_does_not_come_back_loses_the_root(scene: Scene) -> None:
    scene.namespace.daemons = [None, 4, 4]
    async with scene.serving():
        await scene.namespace.daemon_dies()
        assert "3 times, now with status 4" in await scene.epoch.lost
    assert scene.namespace.asked.count("start-daemon") == 3


async def test_a_daemon_that_cannot_be_started_again_loses_the_root(scene: Scene) -> None:
    scene.namespace.daemons = [None, StartError("start-daemon: no such program")]
    async with scene.serving():
        await scene.begins("build")
        await scene.namespace.daemon_dies()
        assert "no such program" in await scene.epoch.lost
        # What it built went with it, and nobody waits for that.
        assert await scene.epoch.active_builds() == frozenset()


async def test_a_build_of_a_daemon_that_died_is_told_so(scene: Scene) -> None:
    async with scene.serving():
        await scene.begins("build")
        await scene.died_and_answers_again()
        (span,) = (span for span in scene.status.timeline if span.name == "build")
        assert (span.outcome, span.attributes["error"]) == ("failed", "buildkitd died")
        assert scene.status.advice is Advice.BUILD_FAILED


async def test_the_agents_death_loses_the_root(scene: Scene) -> None:
    async with scene.serving():
        await scene.namespace.agent_dies()
        assert await scene.epoch.lost
        assert scene.epoch.admitted
    # Nothing is started again in a namespace that is gone, and nothing stopped.
    await scene.epoch.close(5)
    assert "stop-daemon 5" not in scene.namespace.asked


async def test_a_root_that_the_agent_gives_up(scene: Scene) -> None:
    async with scene.serving():
        scene.namespace.agent.happens.put_nowait(agent_pb2.Event(lost="a lease broke"))
        assert await scene.epoch.lost == "a lease broke"


async def test_a_demand_for_what_was_never_restored_loses_the_root(scene: Scene) -> None:
    await scene.epoch.open()
    await scene.load()
    async with scene.epoch.serving():
        await scene.epoch.start_daemon()
        key = agent_pb2.ObjectId(kind=agent_pb2.OBJECT_KIND_SNAPSHOT, name="other")
        scene.namespace.agent.happens.put_nowait(agent_pb2.Event(demand=key))
        assert "other" in await scene.epoch.lost


async def test_what_is_restored_is_prefetched_while_builds_are_served(scene: Scene) -> None:
    await scene.epoch.open()
    await scene.load()
    async with scene.epoch.serving():
        await scene.status.until(lambda status: status.counts.objects()["fetched"] == 1)
    assert scene.namespace.agent.filled == {"layer": b"L" * 100}


async def test_the_daemon_is_stopped_before_the_namespace(scene: Scene) -> None:
    async with scene.serving():
        pass
    await scene.epoch.close(5)
    assert scene.namespace.asked[-2:] == ["stop-daemon 5", "close"]
    assert scene.status.counts.plain["daemon_exits"] == 0


async def test_a_restored_generation_is_leased(scene: Scene) -> None:
    await scene.epoch.open()
    await scene.load()
    assert not [name for name in scene.store.objects if name.startswith("leases/")]
    async with scene.epoch.serving():
        await scene.epoch.start_daemon()
        assert await leased_roots(scene.store, 0.0) == {b"r" * 32}


async def test_what_was_restored_tells_of_collections(scene: Scene) -> None:
    await scene.epoch.open()
    before = scene.epoch.inherited.key
    await scene.load()
    assert (before, scene.epoch.inherited.key) == (None, MINE)
    # The store does not say which ones there were.
    scene.store.refuse = {"list", "stat"}
    scene.epoch._settings = replace(scene.epoch._settings, publish="always")
    async with scene.epoch.serving():
        await scene.epoch.start_daemon()
        assert scene.epoch._uploads is not None
        assert scene.epoch._uploads.collection == 3


async def test_a_store_that_takes_no_lease_is_not_an_end(scene: Scene) -> None:
    await scene.epoch.open()
    await scene.load()
    scene.store.refuse = {"put"}
    async with scene.epoch.serving():
        await scene.epoch.start_daemon()
        assert not scene.epoch.lost.done()
