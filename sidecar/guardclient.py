"""The user namespace of a build as seen from outside: starts it and speaks with its guard.

Only what is named here goes into the namespace: an environment by allow-list, and the descriptors
of the listening socket, of the guard's control socket and of the root's lock file. See
`sidecar/agent/guard.py` for the messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from buildsvc.errors import BuildsvcError, CannotCreate, EnvironmentUnfit
from sidecar import userns
from sidecar.agent import guard, packets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from sidecar.agent.packets import Message

READY_TIMEOUT = 20.0
"""Seconds from the start of rootlesskit to the guard's first word."""
START_TIMEOUT = 20.0
"""Seconds for a program to be executed by the guard."""
CLOSE_TIMEOUT = 2 * guard.AGENT_GRACE
"""Seconds for everything in the namespace to end."""
ENVIRONMENT = frozenset(
    ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER", "XDG_RUNTIME_DIR")
)
"""Variables that rootlesskit and the guard get, where they are set."""

_BOOT = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from sidecar.agent.guard import main; sys.exit(main())"
)
"""Starts the guard without `site` and the user's settings, which would double its memory."""
_LOG_TAIL = 4096
_LOWEST_FD = guard.LISTEN_FD
"""Descriptors below are rootlesskit's own in its child."""


class NamespaceLostError(BuildsvcError):
    """The namespace has ended, and with it the agent and the daemon."""


class StartError(BuildsvcError):
    """The guard could not execute a program."""


@dataclass(frozen=True)
class NamespaceOptions:
    """How to build a namespace.

    `state_dir` and `log` belong to this one run; the log takes the output of rootlesskit, of the
    guard, and of the agent and the daemon where they get no log of their own. `listener` is the
    socket that becomes buildkitd's descriptor 3, `lock` a descriptor to be held open for as long
    as anything of the namespace lives.
    """

    rootlesskit: str
    state_dir: Path
    log: Path
    network: Literal["own", "host"]
    environment: Mapping[str, str]
    deny: Sequence[str] = ()
    listener: int | None = None
    lock: int | None = None


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


@dataclass(frozen=True)
class Descriptors:
    """Numbers that are the same in the sidecar's child, in rootlesskit's and in the guard."""

    control: int
    listener: int | None
    lock: int | None

    def all(self) -> list[int]:
        return [fd for fd in (self.control, self.listener, self.lock) if fd is not None]


def command(options: NamespaceOptions, descriptors: Descriptors) -> list[str]:
    """The command line that starts rootlesskit and in it the guard."""
    words = [options.rootlesskit, f"--state-dir={options.state_dir}", "--propagation=rslave"]
    # buildkitd makes /run/buildkit.
    words.append("--copy-up=/run")
    if options.network == "own":
        words += [
            "--net=slirp4netns",
            "--mtu=65520",
            "--slirp4netns-sandbox=auto",
            "--slirp4netns-seccomp=auto",
            "--disable-host-loopback",
            "--copy-up=/etc",
        ]
    else:
        words.append("--net=host")
    library = str(Path(__file__).resolve().parent.parent)
    words += [sys.executable, "-I", "-S", "-c", _BOOT, library]
    words += ["--control-fd", str(descriptors.control)]
    words += ["--listen-fd", str(-1 if descriptors.listener is None else descriptors.listener)]
    words += ["--lock-fd", str(-1 if descriptors.lock is None else descriptors.lock)]
    if options.network == "own":
        for cidr in options.deny:
            words += ["--deny", cidr]
    return words


class Namespace:
    """One namespace with its guard. `start` once, `close` always; not to be started again.

    Every call raises NamespaceLostError once the namespace has ended.
    """

    def __init__(self, options: NamespaceOptions) -> None:
        self._options = options
        self._control: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[int] = self._loop.create_future()
        self._started: asyncio.Future[Message] | None = None
        self._stopped: asyncio.Future[int] | None = None
        self._user_namespace: int | None = None
        self._agent: int | None = None

    async def start(self) -> None:
        """Returns when the guard is ready. In the main thread: the child hangs on who forks it.

        Raises EnvironmentUnfit saying what the machine lacks, CannotCreate for a log or state
        directory that cannot be made.
        """
        options = self._options
        userns.check(options.rootlesskit, options.environment, options.network)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(0)
        self._control = ours
        with theirs:
            self._process = await self._spawn(theirs)
        self._reader = asyncio.create_task(self._read(ours, self._process))
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                pid = await self._ready
        except TimeoutError:
            await self.close()
            raise EnvironmentUnfit(
                f"the guard in the user namespace did not answer within {READY_TIMEOUT:g} s",
                found=self._log_tail(),
            ) from None
        except NamespaceLostError:
            await self.close()
            raise userns.explain(self._log_tail()) from None
        self._user_namespace = userns.identity(pid)

    async def _spawn(self, control: socket.socket) -> asyncio.subprocess.Process:
        options = self._options
        with contextlib.ExitStack() as passed:

            def high(descriptor: int) -> int:
                copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
                passed.callback(os.close, copy)
                return copy

            descriptors = Descriptors(
                listener=None if options.listener is None else high(options.listener),
                control=high(control.fileno()),
                lock=None if options.lock is None else high(options.lock),
            )
            try:
                options.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                log = passed.enter_context(options.log.open("ab", buffering=0))
            except OSError as error:
                raise CannotCreate(f"cannot create {error.filename}: {error.strerror}") from error
            return await asyncio.create_subprocess_exec(
                *command(options, descriptors),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={k: v for k, v in options.environment.items() if k in ENVIRONMENT},
                pass_fds=descriptors.all(),
                # Ctrl-C in a terminal is for the sidecar alone.
                start_new_session=True,
            )

    async def start_agent(
        self, argv: Sequence[str], env: Mapping[str, str], *, log: int | None = None
    ) -> int:
        """Starts the agent, with exactly this environment; answers its pid.

        The guard appends `--guard-fd 3`. `log` is a descriptor for its output. Raises StartError.
        """
        message: Message = {"op": "start-agent", "argv": list(argv), "env": dict(env)}
        self._agent = _pid(await self._run(message, log))
        return self._agent

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
        if self._started is not None:
            raise BuildsvcError("two programs were to be started at a time")
        self._started = self._loop.create_future()
        try:
            self._send(message, log)
            async with asyncio.timeout(START_TIMEOUT):
                return await self._started
        except TimeoutError:
            raise NamespaceLostError(
                f"the guard did not answer {message['op']} within {START_TIMEOUT:g} s"
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

    async def _read(self, control: socket.socket, process: asyncio.subprocess.Process) -> None:
        """Takes the guard's messages until the namespace has ended, then clears up after it."""
        messages = asyncio.create_task(self._messages(control))
        status = await process.wait()
        # Should rootlesskit have been killed, its guard is still clearing up.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await messages
        control.close()
        survivors: list[int] = []
        if self._user_namespace is not None:
            survivors = await asyncio.to_thread(
                userns.kill_all, self._user_namespace, last=self._agent
            )
        lost = NamespaceLostError(f"the user namespace has ended with status {status}")
        for future in (self._ready, self._started, self._stopped):
            if future is not None and not future.done():
                future.set_exception(lost)
                future.exception()  # somebody may or may not wait for it
        self._events.put_nowait(NamespaceEnded(status, self._log_tail(), tuple(survivors)))

    async def _messages(self, control: socket.socket) -> None:
        """Returns when nobody in the namespace holds the other end any more."""
        with contextlib.suppress(ConnectionResetError):
            while data := await self._loop.sock_recv(control, packets.LIMIT):
                self._take(json.loads(data))

    def _take(self, message: Message) -> None:
        event = message.get("event")
        if event == "ready":
            self._ready.set_result(_pid(message))
        elif event in ("agent-started", "daemon-started", "strays-ended"):
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

    def _log_tail(self) -> str:
        try:
            with self._options.log.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_TAIL))
                return file.read().decode(errors="replace").strip()
        except OSError as error:
            return f"no log: {error.strerror}"


def _pid(message: Message) -> int:
    pid = message.get("pid")
    assert isinstance(pid, int)
    return pid


def _status(message: Message) -> int:
    status = message.get("status")
    assert isinstance(status, int)
    return status
