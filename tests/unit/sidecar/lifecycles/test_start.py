"""How a life begins: with the newest generation, or cold, and why."""

from __future__ import annotations

import asyncio
import errno
import socket
from dataclasses import replace

import pytest

from buildsvc.cache.signing import VerifyKeys
from buildsvc.errors import EnvironmentUnfit
from buildsvc.store.faults import Fail, FaultyStore, Hold, Rule
from sidecar import patience
from sidecar.cachestore import cache_keys
from sidecar.trust import Trust
from tests.unit.sidecar.fakenamespace import FakeNamespace
from tests.unit.sidecar.lifecycles.world import World, cold_starts


async def test_what_is_in_the_store_is_restored(world: World) -> None:
    await world.publish()
    async with world.running():
        await world.ready()
        assert world.status.restored is not None
        assert world.status.restored.number == 1
        assert cold_starts(world) == {}
    assert world.status.cold_reason is None


@pytest.mark.parametrize(
    ("reason", "spoilt"),
    [
        ("no-generation", "everything"),
        ("corrupt", "keys/"),
        ("corrupt", "roots/"),
        ("corrupt-databases", "packs/"),
    ],
)
async def test_a_store_that_has_nothing_to_restore(world: World, reason: str, spoilt: str) -> None:
    await world.publish()
    world.memory.objects = {} if spoilt == "everything" else world.memory.objects
    world.spoil(spoilt)
    async with world.running():
        await world.ready()
        assert cold_starts(world) == {reason: 1}
        assert world.status.restored is None
        # On the root that was there, not on a second one.
        assert len(world.namespaces) == 1


async def test_a_generation_that_is_not_signed(world: World) -> None:
    await world.publish()
    world.trust = Trust(verify=VerifyKeys({}))
    async with world.running():
        await world.ready()
        assert cold_starts(world) == {"untrusted": 1}
        assert dict(world.status.counts.family("passed_over")) == {"untrusted": 1}
        assert dict(world.status.counts.family("errors")) == {"UntrustedHead": 1}


async def test_what_was_found_instead_is_in_the_status(world: World) -> None:
    await world.publish()
    world.settings = replace(world.settings, cache_key="branch", fallback_key=("default",))
    async with world.running():
        await world.ready()
        assert world.status.restored is not None
        assert world.status.restored.asked_key == "branch"
        assert world.status.restored.found_key == "default"
        because = "nothing has been published yet under branch"
        assert world.status.restored.because == because
        assert dict(world.status.counts.family("passed_over")) == {"no-generation": 1}


async def test_what_was_found_in_another_domain(world: World) -> None:
    await world.publish()
    world.settings = replace(
        world.settings, trust_domain="forks", read_domain=("default",), fork_reads="all"
    )
    async with world.running():
        await world.ready()
        assert world.status.restored is not None
        assert world.status.restored.found_domain == "default"
        assert world.status.restored.is_fallback


async def test_without_a_store(world: World) -> None:
    world.store = None
    async with world.running():
        await world.ready()
        assert cold_starts(world) == {"no-store": 1}


async def test_a_store_that_fails(world: World) -> None:
    world.store = FaultyStore(world.memory, [Rule("*", "*", 0, Fail())])
    async with world.running():
        await world.ready()
        assert cold_starts(world) == {"store-unavailable": 1}


async def test_a_disk_without_room_for_the_databases(world: World) -> None:
    await world.publish()
    full = Fail(OSError(errno.ENOSPC, "No space left on device"))
    world.store = FaultyStore(world.memory, [Rule("get_range", "packs/*", 0, full)])
    async with world.running():
        await world.ready()
        assert cold_starts(world) == {"no-room": 1}


async def test_a_store_that_keeps_a_client_waiting(
    world: World, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "CLIENT_PATIENCE", 0.0)
    world.store = FaultyStore(world.memory, [Rule("*", "*", 0, Hold(asyncio.Event()))])
    with socket.create_connection(listener.getsockname()):
        async with world.running():
            await world.ready()
            assert cold_starts(world) == {"time-out": 1}


async def test_who_waits_for_everything_does_not_wait_for_a_search(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "IDLE_PATIENCE", 0.0)
    world.settings = replace(world.settings, restore="complete")
    world.store = FaultyStore(world.memory, [Rule("*", "*", 0, Hold(asyncio.Event()))])
    async with world.running():
        await world.ready()
        assert cold_starts(world) == {"time-out": 1}


async def test_of_many_false_heads_the_first_are_told(world: World) -> None:
    await world.publish()
    key = cache_keys(world.settings, "v0.33.1").own
    for number in range(2, 12):
        await world.memory.create(key.head_name(number), b"false")
    async with world.running():
        await world.ready()
        assert world.status.restored is not None
        assert world.status.restored.number == 1
        assert world.status.restored.because.count("cannot be used") == 3
        assert world.status.restored.because.endswith("; and 7 more")
        assert dict(world.status.counts.family("passed_over")) == {"corrupt": 10}


async def test_a_machine_on_which_no_namespace_lives(world: World) -> None:
    def dies(namespace: FakeNamespace) -> None:
        namespace.agent_answers = False

    world.script = [dies] * 5
    with pytest.raises(EnvironmentUnfit, match="agent does not start"):
        await world.life().run()
    assert [namespace.asked[-1] for namespace in world.namespaces] == ["close", "close"]


async def test_a_namespace_that_dies_once_is_made_again(world: World) -> None:
    def dies(namespace: FakeNamespace) -> None:
        namespace.agent_answers = False

    world.script = [dies]
    async with world.running():
        await world.ready(2)


async def test_an_agent_that_dies_before_the_cold_daemon_answers(world: World) -> None:
    def killed(namespace: FakeNamespace) -> None:
        # What the guard does then.
        namespace.daemons = [-9]

    world.script = [killed]
    async with world.running():
        await world.ready(2)
