"""Roots that are lost, before the first client and under builds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.errors import EnvironmentUnfit
from sidecar import databases, inherited
from sidecar.databases import Records
from sidecar.guardclient import StartError
from sidecar.plan import ObjectKey
from sidecar.settings import Settings
from sidecar.status import Advice
from tests.unit.sidecar.fakenamespace import FakeNamespace
from tests.unit.sidecar.lifecycles.world import Script, World, cold_starts


def refused(namespace: FakeNamespace) -> None:
    namespace.agent.load_fails = "a parent is missing"


def crashes(namespace: FakeNamespace) -> None:
    namespace.daemons = [1]


def keeps(namespace: FakeNamespace) -> None:
    namespace.daemon.keeps = inherited._TRIES + 2


@pytest.mark.parametrize("script", [refused, crashes])
async def test_a_restored_root_that_is_refused_is_replaced_by_an_empty_one(
    world: World, script: Script
) -> None:
    await world.publish()
    world.script = [script]
    async with world.running():
        await world.ready(epoch=2)
        assert cold_starts(world) == {"daemon-refused": 1}
        # Nobody has built on it: no build needs to run again.
        assert world.status.counts.plain["roots_lost"] == 0
        assert world.status.advice is Advice.OK
        assert world.status.restored is None
    assert [namespace.asked[-1] for namespace in world.namespaces] == ["close", "close"]


@pytest.mark.parametrize("end", [1, StartError("start-daemon: no such program")])
async def test_a_daemon_that_does_not_even_start_empty(world: World, end: int | Exception) -> None:
    def broken(namespace: FakeNamespace) -> None:
        namespace.daemons = [end]

    world.script = [broken]
    with pytest.raises(EnvironmentUnfit, match="empty root"):
        await world.life().run()
    assert not world.status.ready
    assert world.namespaces[-1].asked[-1] == "close"


async def test_neither_does_it_start_after_a_root_was_refused(world: World) -> None:
    await world.publish()
    world.script = [crashes, crashes]
    with pytest.raises(EnvironmentUnfit, match="empty root"):
        await world.life().run()
    assert len(world.namespaces) == 2


async def test_a_lost_root_is_replaced_and_builds_are_told_to_run_again(
    world: World, settings: Settings
) -> None:
    await world.publish()
    async with world.running():
        await world.ready()
        await world.begins("build")
        await world.namespaces[0].agent_dies()
        await world.ready(epoch=2)
        assert cold_starts(world) == {"root-lost": 1}
        assert world.status.counts.plain["roots_lost"] == 1
        assert world.status.advice is Advice.RUN_AGAIN
        assert world.status.counts.family("builds") == {"failed": 1}
        # The store had a generation all along, but what was lost may be its fault.
        assert world.status.restored is None
        (await world.begins("again")).ends("again")
        await world.status.until(lambda status: status.advice is Advice.OK)
    left = [path.name for path in settings.root.iterdir() if path.name.startswith("epoch-")]
    assert left == ["epoch-2"]


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Records({"layer": ["record"]}, {})
    monkeypatch.setattr(databases, "records", lambda _: found)


@pytest.mark.usefixtures("records")
async def test_what_is_lost_before_a_build_asks_for_it_is_dropped(world: World) -> None:
    await world.publish_and_lose("layer")
    async with world.running():
        await world.ready()
        await world.status.until(lambda status: status.counts.plain["records_dropped"] == 1)
        assert world.namespaces[0].daemon.pruned == ["id==record"]
        assert world.status.counts.plain["roots_lost"] == 0
    assert len(world.namespaces) == 1


@pytest.mark.usefixtures("records")
async def test_records_that_end_a_moment_after_their_build_are_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inherited, "_AGAIN_AFTER", 0.001)
    world.script = [keeps]
    await world.publish_and_lose("layer")
    async with world.running():
        await world.ready()
        daemon = world.namespaces[0].daemon
        for _ in range(inherited._TRIES):
            await daemon.asked_to_prune.acquire()
        (await world.begins("build")).ends("build")
        await world.status.until(lambda status: status.counts.plain["records_dropped"] == 1)
    assert len(daemon.pruned) == inherited._TRIES + 3


async def test_what_cannot_be_dropped_stays(world: World) -> None:
    # The fake generation's databases do not tell of records.
    await world.publish_and_lose("layer")
    async with world.running():
        await world.ready()
        await world.status.until(
            lambda status: status.counts.family("errors")["CorruptObject"] == 1
        )
        assert world.status.counts.plain["records_dropped"] == 0
        (await world.begins("build")).ends("build")
        await world.status.until(lambda status: status.counts.family("builds")["ok"] == 1)
    assert len(world.namespaces) == 1


async def loses(world: World) -> None:
    """buildkitd asks for a layer whose bytes the store has lost."""
    world.namespaces[-1].agent.happens.put_nowait(
        agent_pb2.Event(demand=ObjectKey.snapshot("layer").to_proto())
    )


@pytest.mark.usefixtures("records")
async def test_what_the_store_has_lost_is_done_without(world: World, settings: Settings) -> None:
    await world.publish_and_lose("layer")
    async with world.running():
        await world.ready()
        await world.begins("build")
        await loses(world)
        await world.ready(epoch=2)
        assert world.status.restored is not None
        assert cold_starts(world) == {}
        plain = world.status.counts.plain
        assert (plain["roots_lost"], plain["roots_mended"]) == (1, 1)
        assert world.status.advice is Advice.RUN_AGAIN
        asked = world.namespaces[1].asked
        # Nobody is served before the records are gone.
        assert asked[-3:] == ["start-daemon", "stop-daemon 5", "start-daemon"]
        assert [command[-1] for command in world.namespaces[1].commands] == [
            f"--addr=unix://{settings.root}/epoch-2/run/buildkitd.sock",
            f"--config={settings.root}/epoch-2/run/buildkitd.toml",
        ]
        assert world.namespaces[1].daemon.pruned == ["id==record"]
        (await world.begins("again")).ends("again")
        await world.status.until(lambda status: status.advice is Advice.OK)


@pytest.mark.usefixtures("records")
async def test_a_complete_restore_does_without_what_the_store_has_lost(world: World) -> None:
    world.settings = replace(world.settings, restore="complete")
    await world.publish_and_lose("layer")
    async with world.running():
        await world.ready(epoch=2)
        assert world.status.restored is not None
        assert cold_starts(world) == {}
        # No client was served before: no build has failed for it.
        plain = world.status.counts.plain
        assert (plain["roots_lost"], plain["roots_mended"]) == (0, 1)
        assert world.status.advice is Advice.OK
        assert "start-daemon" not in world.namespaces[0].asked
        assert world.namespaces[1].daemon.pruned == ["id==record"]


@pytest.mark.usefixtures("records")
async def test_more_that_is_lost_is_not_waited_for_again(world: World) -> None:
    await world.publish_and_lose("layer")
    async with world.running():
        await world.ready()
        await loses(world)
        await world.ready(epoch=2)
        # Of what is left out nothing can be had.
        await loses(world)
        await world.ready(epoch=3)
        assert cold_starts(world) == {"root-lost": 1}
        plain = world.status.counts.plain
        assert (plain["roots_lost"], plain["roots_mended"]) == (2, 1)


@pytest.mark.usefixtures("records")
async def test_a_daemon_that_does_not_drop_what_is_lost(world: World) -> None:
    def does_not(namespace: FakeNamespace) -> None:
        namespace.daemon.prune_fails = True

    world.script = [lambda _: None, does_not]
    await world.publish_and_lose("layer")
    async with world.running():
        await world.ready()
        await loses(world)
        await world.ready(epoch=3)
        assert cold_starts(world) == {"daemon-refused": 1}


async def test_each_lost_root_has_a_number_of_its_own(world: World, settings: Settings) -> None:
    # What an earlier sidecar left is deleted, and its number is not used again.
    left = settings.root / "epoch-6"
    (left / "buildkit").mkdir(parents=True)
    world.left = [left]
    async with world.running():
        for number in (7, 8, 9):
            await world.ready(number)
            lost = agent_pb2.Event(lost="a lease broke")
            world.namespaces[-1].agent.happens.put_nowait(lost)
        await world.ready(10)
        assert world.status.counts.plain["roots_lost"] == 3
    assert not (settings.root / "epoch-6").exists()


async def test_a_daemon_that_died_keeps_its_root(world: World) -> None:
    await world.publish()
    async with world.running():
        await world.ready()
        await world.namespaces[0].daemon_dies()
        await world.status.until(lambda status: status.counts.plain["daemon_exits"] == 1)
        (await world.begins("build")).ends("build")
        await world.status.until(lambda status: status.counts.family("builds")["ok"] == 1)
        assert (world.status.epoch, cold_starts(world)) == (1, {})
        assert world.status.restored is not None
