"""The conversation with a guard that a test plays."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from buildsvc.errors import EnvironmentUnfit
from sidecar import guardclient
from sidecar.agent import packets
from sidecar.guardclient import (
    AgentExited,
    DaemonExited,
    DaemonStarted,
    Namespace,
    NamespaceEnded,
    NamespaceLostError,
    StartError,
)
from sidecar.rootlesskit import NamespaceOptions

_OPTIONS = NamespaceOptions(
    rootlesskit="rootlesskit",
    state_dir=Path("/state"),
    log=Path("/log"),
    network="own",
    environment={"PATH": "/nowhere"},
)
_GUARD, _AGENT, _DAEMON = 10, 11, 12


class FakeGuard:
    """A guard and the process around it. Implements GuardProcess."""

    def __init__(self) -> None:
        self.control = socket.socket()
        self.control.close()
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.known: int | None = None
        self.killed = False
        self.killed_last: int | None = None
        self.left: tuple[int, ...] = ()
        self.gone = False
        self.childless = asyncio.Event()

    async def spawn(self, options: NamespaceOptions, control: socket.socket) -> FakeGuard:
        assert options is _OPTIONS
        self.control = control.dup()
        self.control.settimeout(0)
        return self

    def says(self, **message: object) -> None:
        packets.send(self.control, message, [])

    async def hears(self) -> packets.Message:
        data = await asyncio.get_running_loop().sock_recv(self.control, packets.LIMIT)
        message = json.loads(data) if data else {}
        assert isinstance(message, dict)
        return message

    def ends(self, status: int) -> None:
        self.control.close()
        if not self.status.done():
            self.status.set_result(status)

    async def wait(self) -> int:
        return await asyncio.shield(self.status)

    async def orphaned(self) -> None:
        await self.childless.wait()

    def kill(self) -> None:
        self.killed = True
        self.ends(-9)

    def entered(self, pid: int) -> None:
        if self.gone:
            raise FileNotFoundError(pid)
        self.known = pid

    async def kill_left(self, *, last: int | None) -> tuple[int, ...]:
        self.killed_last = last
        return self.left

    def said(self) -> str:
        return "what was said"

    def unfit(self) -> EnvironmentUnfit:
        return EnvironmentUnfit("not made", found=self.said())


@pytest_asyncio.fixture
async def guard() -> FakeGuard:
    return FakeGuard()


@pytest_asyncio.fixture
async def namespace(guard: FakeGuard) -> AsyncIterator[Namespace]:
    """A namespace whose guard has spoken; it ends in order when the test has not ended it."""
    made = Namespace(_OPTIONS, spawn=guard.spawn)
    starting = asyncio.create_task(made.start())
    await asyncio.sleep(0)
    guard.says(event="ready", pid=_GUARD)
    await starting
    yield made
    closing = asyncio.create_task(made.close())
    if guard.control.fileno() >= 0:
        while await guard.hears():
            pass
        guard.ends(0)
    await closing


async def test_the_guards_first_word_tells_the_namespace(
    guard: FakeGuard, namespace: Namespace
) -> None:
    assert namespace is not None
    assert guard.known == _GUARD


async def test_an_agent_asked_for_at_the_beginning_is_started_once(guard: FakeGuard) -> None:
    made = Namespace(_OPTIONS, spawn=guard.spawn)
    await made.begin(["agent", "-x"], {"A": "1"})
    # Before the guard's first word, which may come long before this process has time for it.
    assert await guard.hears() == {"op": "start-agent", "argv": ["agent", "-x"], "env": {"A": "1"}}
    guard.says(event="ready", pid=_GUARD)
    guard.says(event="agent-started", pid=_AGENT)
    await made.start()
    assert await made.start_agent(["agent", "-x"], {"A": "1"}) == _AGENT
    strays = asyncio.create_task(made.end_strays())
    assert await guard.hears() == {"op": "end-strays"}
    guard.says(event="strays-ended", count=0)
    assert await strays == 0
    guard.ends(0)
    await made.close()
    assert guard.killed_last == _AGENT


async def test_an_agent_asked_for_of_what_has_ended_already(guard: FakeGuard) -> None:
    async def spawn(options: NamespaceOptions, control: socket.socket) -> FakeGuard:
        await guard.spawn(options, control)
        guard.ends(1)
        return guard

    made = Namespace(_OPTIONS, spawn=spawn)
    await made.begin(["agent"])
    with pytest.raises(EnvironmentUnfit, match="not made"):
        await made.start()
    await made.close()


async def test_an_agent_asked_for_at_the_beginning_that_does_not_start_is_an_error(
    guard: FakeGuard,
) -> None:
    made = Namespace(_OPTIONS, spawn=guard.spawn)
    await made.begin(["agent"])
    await guard.hears()
    guard.says(event="ready", pid=_GUARD)
    guard.says(event="failed", op="start-agent", message="no such file")
    await made.start()
    with pytest.raises(StartError, match="start-agent: no such file"):
        await made.start_agent(["agent"], {})
    guard.ends(0)
    await made.close()


async def test_programs_are_started_one_at_a_time_with_exactly_what_was_given(
    guard: FakeGuard, namespace: Namespace
) -> None:
    starting = asyncio.create_task(namespace.start_agent(["agent", "-x"], {"A": "1"}))
    assert await guard.hears() == {"op": "start-agent", "argv": ["agent", "-x"], "env": {"A": "1"}}
    daemon = asyncio.create_task(namespace.start_daemon(["buildkitd"], {}, nofsync=True))
    await asyncio.sleep(0)
    with pytest.raises(BlockingIOError):
        guard.control.recv(packets.LIMIT)
    guard.says(event="agent-started", pid=_AGENT)
    assert await starting == _AGENT
    assert (await guard.hears())["seccomp_nofsync"] is True
    guard.says(event="daemon-started", pid=_DAEMON, nofsync="no seccomp")
    assert await daemon == DaemonStarted(_DAEMON, "no seccomp")


async def test_a_program_that_cannot_be_started_leaves_the_namespace_usable(
    guard: FakeGuard, namespace: Namespace
) -> None:
    starting = asyncio.create_task(namespace.start_agent(["agent"], {}))
    await guard.hears()
    guard.says(event="failed", op="start-agent", message="no such file")
    with pytest.raises(StartError, match="start-agent: no such file"):
        await starting
    strays = asyncio.create_task(namespace.end_strays())
    assert await guard.hears() == {"op": "end-strays"}
    guard.says(event="strays-ended", count=3)
    assert await strays == 3


async def test_a_guard_that_does_not_answer(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardclient, "START_TIMEOUT", 0.0)
    with pytest.raises(NamespaceLostError, match="did not answer end-strays"):
        await namespace.end_strays()


async def test_a_daemons_end_is_told_apart_from_one_that_was_asked_for(
    guard: FakeGuard, namespace: Namespace
) -> None:
    events = namespace.events()
    guard.says(event="daemon-exited", status=-11)
    assert await anext(events) == DaemonExited(-11, asked=False)
    stops = [asyncio.create_task(namespace.stop_daemon(5)) for _ in range(2)]
    # Whoever asks second waits for the same end.
    assert await guard.hears() == {"op": "stop-daemon", "grace": 5}
    guard.says(event="daemon-exited", status=0)
    assert await asyncio.gather(*stops) == [0, 0]
    assert await anext(events) == DaemonExited(0, asked=True)
    guard.says(event="agent-exited", status=1)
    assert await anext(events) == AgentExited(1)


async def test_a_daemon_that_was_gone_before_it_was_stopped(
    guard: FakeGuard, namespace: Namespace
) -> None:
    stopping = asyncio.create_task(namespace.stop_daemon(5))
    await guard.hears()
    guard.says(event="failed", op="stop-daemon", message="no daemon")
    with pytest.raises(StartError, match="no daemon"):
        await stopping
    guard.says(event="daemon-exited", status=4)
    assert await anext(namespace.events()) == DaemonExited(4, asked=False)


async def test_the_end_of_the_namespace_reaches_everyone_who_waits(
    guard: FakeGuard, namespace: Namespace
) -> None:
    starting = asyncio.create_task(namespace.start_agent(["agent"], {}))
    await guard.hears()
    guard.says(event="agent-started", pid=_AGENT)
    await starting
    stopping = asyncio.create_task(namespace.stop_daemon(5))
    running = asyncio.create_task(namespace.end_strays())
    await guard.hears()
    await guard.hears()
    guard.left = (99,)
    guard.ends(3)
    for waiting in (stopping, running):
        with pytest.raises(NamespaceLostError, match="ended with status 3"):
            await waiting
    seen = [event async for event in namespace.events()]
    assert seen == [NamespaceEnded(3, "what was said", (99,))]
    # The agent holds the leases that the others may wait for.
    assert guard.killed_last == _AGENT
    with pytest.raises(NamespaceLostError, match="does not exist"):
        await namespace.end_strays()


async def test_close_kills_what_does_not_end(
    guard: FakeGuard, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardclient, "CLOSE_TIMEOUT", 0.0)
    await namespace.close()
    assert guard.killed


@pytest.mark.parametrize("spoke", [False, True])
async def test_a_guard_that_ends_at_its_start_is_explained(
    guard: FakeGuard, *, spoke: bool
) -> None:
    guard.gone = True
    namespace = Namespace(_OPTIONS, spawn=guard.spawn)
    starting = asyncio.create_task(namespace.start())
    await asyncio.sleep(0)
    if spoke:
        guard.says(event="ready", pid=_GUARD)
    guard.ends(1)
    with pytest.raises(EnvironmentUnfit, match="not made"):
        await starting


async def test_a_guard_that_never_speaks(guard: FakeGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardclient, "READY_TIMEOUT", 0.0)
    monkeypatch.setattr(guardclient, "CLOSE_TIMEOUT", 0.0)
    namespace = Namespace(_OPTIONS, spawn=guard.spawn)
    with pytest.raises(EnvironmentUnfit, match="did not answer within 0 s"):
        await namespace.start()
    assert guard.killed


async def test_a_guard_that_cannot_come_any_more_is_not_waited_for(guard: FakeGuard) -> None:
    namespace = Namespace(_OPTIONS, spawn=guard.spawn)
    starting = asyncio.create_task(namespace.start())
    guard.childless.set()
    with pytest.raises(EnvironmentUnfit, match="not made"):
        await starting
    assert guard.killed


async def test_a_namespace_that_could_not_start_can_be_closed() -> None:
    namespace = Namespace(_OPTIONS)
    with pytest.raises(EnvironmentUnfit, match="rootlesskit is not there"):
        await namespace.start()
    with pytest.raises(NamespaceLostError):
        await namespace.stop_daemon(0)
    await namespace.close()


async def test_a_guard_that_speaks_when_nobody_waits_any_more_is_closed_in_order(
    guard: FakeGuard,
) -> None:
    namespace = Namespace(_OPTIONS, spawn=guard.spawn)
    starting = asyncio.create_task(namespace.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting])
    guard.says(event="ready", pid=_GUARD)
    closing = asyncio.create_task(namespace.close())
    assert await guard.hears() == {}
    guard.ends(0)
    await closing
    assert guard.known == _GUARD
    assert [event async for event in namespace.events()] == [NamespaceEnded(0, "what was said", ())]
