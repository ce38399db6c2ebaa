"""Speaks with the guard of a namespace: what it is told, what it answers, what it reports.

See `sidecar/agent/guard.py` for the messages, `sidecar/rootlesskit.py` for how the guard comes to
be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from buildsvc.errors import BuildsvcError, EnvironmentUnfit
from sidecar.agent import children, packets
from sidecar.rootlesskit import start_guard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from sidecar.agent.packets import Message
    from sidecar.rootlesskit import NamespaceOptions

READY_TIMEOUT = 20.0
"""Seconds from the start of rootlesskit to the guard's first word."""
START_TIMEOUT = 20.0
"""Seconds for a program to be executed by the guard."""
CLOSE_TIMEOUT = 2 * children.AGENT_GRACE
"""Seconds for everything in the namespace to end."""


class NamespaceLostError(BuildsvcError):
    """The namespace has ended, and with it the agent and the daemon."""


class StartError(BuildsvcError):
    """The guard could not execute a program."""


@dataclass(frozen=True)
class AgentExited:
    """`status` is negative for a signal."""

    status: int


@dataclass(frozen=True)
class DaemonExited:
    """`asked`: by `stop_daemon`."""

    status: int
    asked: bool


@dataclass(frozen=True)
class NamespaceEnded:
    """The last event: rootlesskit's status, and the end of what it and the guard said.

    `survivors` are processes that did not end even after SIGKILL, stuck in the kernel.
    """

    status: int
    log: str
    survivors: tuple[int, ...]


@dataclass(frozen=True)
class DaemonStarted:
    """`nofsync` says why fsync still works although it should not; empty when all is well."""

    pid: int
    nofsync: str


Event = AgentExited | DaemonExited | NamespaceEnded


class GuardProcess(Protocol):
    """The process that made the namespace and runs the guard: `sidecar.rootlesskit.Rootlesskit`."""

    async def wait(self) -> int:
        """Returns the exit status when it has ended."""

    async def orphaned(self) -> None:
        """Returns when the guard cannot come any more, although the process goes on."""

    def kill(self) -> None:
        """Ends it at once."""

    def entered(self, pid: int) -> None:
        """Learns which namespace it made from a process in it; OSError when that is gone."""

    async def kill_left(self, *, last: int | None) -> tuple[int, ...]:
        """Kills what is left in the namespace; answers who did not end."""

    def said(self) -> str:
        """The end of what it and the guard said."""

    def unfit(self) -> EnvironmentUnfit:
        """The error for one that ended before the guard spoke."""


class Namespace:
    """One namespace with its guard. `begin` and `start` once, `close` always; no second start.

    Every call raises NamespaceLostError once the namespace has ended. `spawn` starts what makes
    the namespace and runs the guard in it, with our socket's other end.
    """

    def __init__(
        self,
        options: NamespaceOptions,
        *,
        spawn: Callable[[NamespaceOptions, socket.socket], Awaitable[GuardProcess]] = start_guard,
    ) -> None:
        self._options = options
        self._spawn = spawn
        self._control: socket.socket | None = None
        self._process: GuardProcess | None = None
        self._reader: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[int] = self._loop.create_future()
        self._one_at_a_time = asyncio.Lock()
        self._started: asyncio.Future[Message] | None = None
        self._stopped: asyncio.Future[int] | None = None
        self._asked = False
        self._agent: int | None = None

    async def begin(self, argv: Sequence[str] = (), env: Mapping[str, str] | None = None) -> None:
        """Starts what makes the namespace. In the main thread: the child hangs on who forks it.

        With `argv`, the guard starts the agent as soon as it is there itself, and `start_agent`
        only waits for that: the agent need not wait until this process has imported all it needs.

        Raises EnvironmentUnfit saying what the machine lacks, CannotCreate for a log or state
        directory that cannot be made.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        self._control = ours
        with theirs:
            self._process = await self._spawn(self._options, theirs)
        self._reader = asyncio.create_task(self._read(ours, self._process))
        if argv:
            # That it has ended already `start` finds out, and says why.
            with contextlib.suppress(NamespaceLostError):
                self._ask(_start_agent(argv, env or {}), None)
                self._asked = True

    async def start(self) -> None:
        """Begins, unless that has been done, and returns when the guard is ready.

        Raises what `begin` does, and EnvironmentUnfit when the namespace cannot be made.
        """
        if self._process is None:
            await self.begin()
        assert self._process is not None
        process = self._process
        watching = asyncio.create_task(_end_orphaned(process))
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                # Who gives up waiting leaves it to be answered: `close` still needs the reader.
                await asyncio.shield(self._ready)
        except TimeoutError:
            await self.close()
            raise EnvironmentUnfit(
                f"the guard in the user namespace did not answer within {READY_TIMEOUT:g} s",
                found=process.said(),
            ) from None
        except (NamespaceLostError, OSError):
            # The guard has ended: before its first word, or with it.
            await self.close()
            raise process.unfit() from None
        finally:
            watching.cancel()

    async def start_agent(
        self, argv: Sequence[str], env: Mapping[str, str], *, log: int | None = None
    ) -> int:
        """Starts the agent, with exactly this environment; answers its pid.

        The guard appends `--guard-fd 3`. `log` is a descriptor for its output. Raises StartError.
        """
        async with self._one_at_a_time:
            asked, self._asked = self._asked, False
            if not asked:
                self._ask(_start_agent(argv, env), log)
            return _pid(await self._answer("start-agent"))

    async def start_daemon(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        nofsync: bool,
        log: int | None = None,
    ) -> DaemonStarted:
        """Starts buildkitd, with exactly this environment and the listener at descriptor 3.

        Its address is `fd://`. `nofsync` makes it and its RUN steps do without fsync. Raises
        StartError.
        """
        message: Message = {
            "op": "start-daemon",
            "argv": list(argv),
            "env": dict(env),
            "seccomp_nofsync": nofsync,
        }
        answer = await self._run(message, log)
        return DaemonStarted(_pid(answer), str(answer.get("nofsync", "")))

    async def stop_daemon(self, grace: float) -> int:
        """SIGTERM, and SIGKILL after `grace` seconds, at once for 0; answers the exit status.

        When this returns no process that the daemon started is left.
        """
        if self._stopped is None:
            self._send({"op": "stop-daemon", "grace": grace}, None)
            self._stopped = self._loop.create_future()
        return await asyncio.shield(self._stopped)

    async def end_strays(self) -> int:
        """Kills what RUN steps left running, and tells how many processes that were.

        Without a pid namespace of their own they outlive their step. Only for a moment in which
        no build can be under way: a step's own background processes look the same.
        """
        count = (await self._run({"op": "end-strays"}, None)).get("count")
        assert isinstance(count, int)
        return count

    async def events(self) -> AsyncIterator[Event]:
        """What happens, in order, up to and including NamespaceEnded. For one reader."""
        while True:
            event = await self._events.get()
            yield event
            if isinstance(event, NamespaceEnded):
                return

    async def close(self) -> None:
        """Ends the daemon, then the agent, then the namespace; returns when no process is left."""
        if self._process is None or self._reader is None:
            if self._control is not None:
                self._control.close()
            return
        assert self._control is not None
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await asyncio.shield(self._reader)
        except TimeoutError:
            self._process.kill()
            await self._reader

    async def _run(self, message: Message, log: int | None) -> Message:
        # A daemon that dies in a checkpoint is started again while strays are ended.
        async with self._one_at_a_time:
            self._ask(message, log)
            return await self._answer(str(message["op"]))

    def _ask(self, message: Message, log: int | None) -> None:
        self._send(message, log)
        self._started = self._loop.create_future()

    async def _answer(self, what: str) -> Message:
        assert self._started is not None
        try:
            async with asyncio.timeout(START_TIMEOUT):
                return await self._started
        except TimeoutError:
            raise NamespaceLostError(
                f"the guard did not answer {what} within {START_TIMEOUT:g} s"
            ) from None
        finally:
            self._started = None

    def _send(self, message: Message, descriptor: int | None) -> None:
        if self._control is None or self._control.fileno() < 0:
            raise NamespaceLostError("the user namespace does not exist")
        try:
            packets.send(self._control, message, [] if descriptor is None else [descriptor])
        except OSError as error:
            raise NamespaceLostError(f"the guard cannot be reached: {error.strerror}") from error

    async def _read(self, control: socket.socket, process: GuardProcess) -> None:
        """Takes the guard's messages until the namespace has ended, then clears up after it."""
        messages = asyncio.create_task(self._messages(control))
        status = await process.wait()
        # Should it have been killed, its guard is still clearing up.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await messages
        control.close()
        survivors = await process.kill_left(last=self._agent)
        lost = NamespaceLostError(f"the user namespace has ended with status {status}")
        for future in (self._ready, self._started, self._stopped):
            if future is not None and not future.done():
                future.set_exception(lost)
                future.exception()  # somebody may or may not wait for it
        self._events.put_nowait(NamespaceEnded(status, process.said(), survivors))

    async def _messages(self, control: socket.socket) -> None:
        """Returns when nobody in the namespace holds the other end any more."""
        with contextlib.suppress(ConnectionResetError):
            while data := await self._loop.sock_recv(control, packets.LIMIT):
                self._take(json.loads(data))

    def _spoke(self, pid: int) -> None:
        """Takes the guard's first word, also when nobody waits for it: it tells the namespace."""
        assert self._process is not None
        try:
            self._process.entered(pid)
        except OSError as gone:
            self._ready.set_exception(gone)
            self._ready.exception()  # somebody may or may not wait for it
        else:
            self._ready.set_result(pid)

    def _take(self, message: Message) -> None:
        event = message.get("event")
        if event == "ready":
            self._spoke(_pid(message))
        elif event in ("agent-started", "daemon-started", "strays-ended"):
            if event == "agent-started":
                self._agent = _pid(message)
            if self._started is not None and not self._started.done():
                self._started.set_result(message)
        elif event == "agent-exited":
            self._events.put_nowait(AgentExited(_status(message)))
        elif event == "daemon-exited":
            stopped, self._stopped = self._stopped, None
            self._events.put_nowait(DaemonExited(_status(message), asked=stopped is not None))
            if stopped is not None:
                stopped.set_result(_status(message))
        elif event == "failed":
            self._fail(message)

    def _fail(self, message: Message) -> None:
        error = StartError(f"{message.get('op')}: {message.get('message')}")
        if message.get("op") == "stop-daemon":
            # The daemon had exited by itself in the meantime: its event is on its way to a reader.
            stopped, self._stopped = self._stopped, None
            if stopped is not None:
                stopped.set_exception(error)
                stopped.exception()
        elif self._started is not None and not self._started.done():
            self._started.set_exception(error)


def _start_agent(argv: Sequence[str], env: Mapping[str, str]) -> Message:
    return {"op": "start-agent", "argv": list(argv), "env": dict(env)}


async def _end_orphaned(process: GuardProcess) -> None:
    await process.orphaned()
    process.kill()


def _pid(message: Message) -> int:
    pid = message.get("pid")
    assert isinstance(pid, int)
    return pid


def _status(message: Message) -> int:
    status = message.get("status")
    assert isinstance(status, int)
    return status
