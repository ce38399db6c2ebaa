"""How a life ends, and what may be asked of it meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.errors import UsageError
from buildsvc.store.faults import FaultyStore, Hold, Rule
from sidecar.status import Phase
from tests.unit.sidecar.fakenamespace import FakeNamespace
from tests.unit.sidecar.lifecycles.world import World, cold_starts


async def test_stopped_while_the_namespace_is_made(world: World) -> None:
    def slow(namespace: FakeNamespace) -> None:
        namespace.makes.clear()

    world.script = [slow]
    async with world.running():
        await world.status.until(lambda status: status.phase is Phase.RESTORING)
        world.stop.set()
        # What is being made is made first: half of it could not be ended in order.
        world.namespaces[0].makes.set()
    assert world.namespaces[0].asked[-1] == "close"
    assert "start-daemon" not in world.namespaces[0].asked


async def test_stopped_while_the_store_is_asked(world: World) -> None:
    hold = Hold(asyncio.Event())
    world.store = FaultyStore(world.memory, [Rule("*", "*", 0, hold)])
    async with world.running():
        await hold.reached.wait()
    assert len(world.namespaces) == 1
    assert "start-daemon" not in world.namespaces[0].asked
    # It was not cold: it was not to be at all.
    assert cold_starts(world) == {}


async def test_stopped_before_it_began(world: World) -> None:
    world.stop.set()
    await world.life().run()
    assert world.namespaces == []


async def test_a_stop_waits_for_the_build_under_way(world: World) -> None:
    async with world.running() as running:
        await world.ready()
        daemon = await world.begins("build")
        world.stop.set()
        await world.status.until(lambda status: status.phase is Phase.DRAINING)
        assert not running.done()
        daemon.ends("build")
    assert world.status.counts.family("builds") == {"ok": 1}
    assert world.namespaces[0].asked[-2].startswith("stop-daemon")


async def test_a_stop_waits_no_longer_than_the_grace_period(world: World) -> None:
    world.settings = replace(world.settings, grace=0.0)
    async with world.running():
        await world.ready()
        await world.begins("endless")
    assert world.status.counts.family("checkpoints_skipped") == {"deadline": 1}


async def test_a_root_that_is_lost_while_it_drains_is_not_replaced(world: World) -> None:
    async with world.running():
        await world.ready()
        await world.begins("build")
        world.stop.set()
        await world.status.until(lambda status: status.phase is Phase.DRAINING)
        lost = agent_pb2.Event(lost="a lease broke")
        world.namespaces[0].agent.happens.put_nowait(lost)
    assert len(world.namespaces) == 1
    assert "deadline" not in world.status.counts.family("checkpoints_skipped")


async def test_a_checkpoint_needs_something_to_publish(world: World) -> None:
    with pytest.raises(UsageError, match="nothing to publish from"):
        await world.life().checkpoint()
