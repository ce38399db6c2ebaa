"""What follows what in a sidecar's life: cold starts, lost roots, and the end."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.signing import VerifyKeys
from buildsvc.errors import EnvironmentUnfit, UsageError
from buildsvc.store.contract import Store
from buildsvc.store.faults import Fail, FaultyStore, Hold, Rule
from sidecar import lifecycle, patience
from sidecar.beginning import Beginning
from sidecar.cachestore import cache_keys
from sidecar.guardclient import StartError
from sidecar.lifecycle import Lifecycle
from sidecar.paths import EpochPaths, next_number
from sidecar.room import Room
from sidecar.rootdir import RootDirectory, locked
from sidecar.rootlesskit import NamespaceOptions
from sidecar.settings import Settings
from sidecar.status import Advice, Phase, Status
from sidecar.trust import Trust
from tests.unit.cache.fakes import MemoryStore
from tests.unit.sidecar.fakeagent import generation
from tests.unit.sidecar.fakedaemon import FakeDaemon
from tests.unit.sidecar.fakenamespace import FakeNamespace, grpc_kept

_BUILDKITD = "#!/bin/sh\necho buildkitd github.com/moby/buildkit v0.33.1 1234abc\n"
#: In rootlesskit's place: runs its arguments as they are.
_HERE = '#!/bin/sh\nexec "$@"\n'

Script = Callable[[FakeNamespace], None]


class World:
    """A sidecar whose namespaces a test plays."""

    def __init__(self, settings: Settings, root: RootDirectory, listener: socket.socket) -> None:
        self.settings = settings
        self.memory = MemoryStore()
        self.store: Store | None = self.memory
        self.trust = Trust()
        self.status = Status()
        self.stop = asyncio.Event()
        #: The namespaces in the order of their making, and what happens to each at first.
        self.namespaces: list[FakeNamespace] = []
        self.script: list[Script] = []
        #: Epochs of an earlier sidecar.
        self.left: list[Path] = []
        self._root = root
        self._listener = listener

    def namespace(self, options: NamespaceOptions) -> FakeNamespace:
        """In the place of Namespace."""
        made = FakeNamespace(EpochPaths(options.state_dir.parents[1]))
        if len(self.namespaces) < len(self.script):
            self.script[len(self.namespaces)](made)
        self.namespaces.append(made)
        return made

    async def publish(self) -> None:
        """Put a generation of one layer into the store."""
        packs = self._root.path / "packs"
        await asyncio.to_thread(packs.mkdir)
        root = await generation(self.memory, packs, {"layer": b"L" * 100})
        log = GenerationLog(self.memory, cache_keys(self.settings, "v0.33.1").own)
        await log.publish(root, parent=None)

    def spoil(self, prefix: str) -> None:
        """Overwrite what the store has under these names."""
        for name in self.memory.objects:
            if name.startswith(prefix):
                self.memory.objects[name] = bytes(len(self.memory.objects[name]))

    def life(self) -> Lifecycle:
        number = next_number(list(self.left))
        beginning = Beginning(
            self._root, tuple(self.left), number, Room(self._root.path), "host", None
        )
        return Lifecycle(
            self.settings,
            self._listener,
            self.status,
            beginning,
            store=self.store,
            trust=self.trust,
            stop=self.stop,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """It runs; in the end it is told to stop, and has to."""
        running = asyncio.create_task(self.life().run())
        try:
            yield running
        finally:
            self.stop.set()
            await running

    async def begins(self, ref: str) -> FakeDaemon:
        """A build begins at the newest daemon, and the sidecar has seen it."""
        daemon = self.namespaces[-1].daemon
        daemon.begins(ref)
        await self.status.until(lambda status: any(span.name == ref for span in status.timeline))
        return daemon

    async def ready(self, epoch: int = 1) -> None:
        await self.status.until(lambda status: status.ready and status.epoch == epoch)


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Below a path that is short enough for sockets."""
    directory = tmp_path_factory.mktemp("l")
    programs = directory / "bin"
    programs.mkdir()
    for name, text in (("buildkitd", _BUILDKITD), ("runc", _HERE), ("rootlesskit", _HERE)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return Settings.read(
        {
            "root": directory / "root",
            "tools_dir": programs,
            "network": "host",
            "allow_reachable_endpoint": True,
            "publish": "never",
            "max_used_space": "1GB",
        }
    )


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        yield bound


@pytest_asyncio.fixture
async def world(
    settings: Settings, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    with grpc_kept():
        async with locked(settings.root, asyncio.Event()) as root:
            it = World(settings, root, listener)
            monkeypatch.setattr(lifecycle, "Namespace", it.namespace)
            yield it


def cold_starts(world: World) -> dict[str, int]:
    return dict(world.status.counts.family("cold_starts"))


# Starts


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


# Lost before the first client


def refused(namespace: FakeNamespace) -> None:
    namespace.agent.load_fails = "a parent is missing"


def crashes(namespace: FakeNamespace) -> None:
    namespace.daemons = [1]


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


# Lost under builds


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
        # The store had a generation all along, but what was lost may be its fault.
        assert world.status.restored is None
        (await world.begins("again")).ends("again")
        await world.status.until(lambda status: status.advice is Advice.OK)
    left = [path.name for path in settings.root.iterdir() if path.name.startswith("epoch-")]
    assert left == ["epoch-2"]


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


# The end


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


# Commands


async def test_a_checkpoint_needs_something_to_publish(world: World) -> None:
    with pytest.raises(UsageError, match="nothing to publish from"):
        await world.life().checkpoint()
