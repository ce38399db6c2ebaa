"""Starts rootlesskit, which makes the user namespace of a build and runs the guard in it.

Only what is named here goes into the namespace: an environment by allow-list, and the descriptors
of the listening socket, of the guard's control socket and of the root's lock file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from buildsvc.errors import CannotCreate, EnvironmentUnfit
from sidecar import userns
from sidecar.agent import guard

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

ENVIRONMENT = frozenset(
    ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER", "XDG_RUNTIME_DIR")
)
"""Variables that rootlesskit and the guard get, where they are set."""

_BOOT = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from sidecar.agent.guard import main; sys.exit(main())"
)
"""Starts the guard without `site` and the user's settings, which would double its memory."""
_LIBRARY = str(Path(__file__).resolve().parent.parent)
"""The directory that the guard imports `sidecar` from."""
_CHILD = "exe"
"""rootlesskit's other self in the namespace, as it is called: the end of `/proc/self/exe`."""
_LOG_TAIL = 4096
_LOOK_AFTER = 0.25
"""Seconds between two looks at what only the parent of a process is told."""
MTU = 14_000
"""Bytes of a packet in a build's own network: four fit into slirp4netns' window of 64 KiB.

With rootlesskit's usual 65520 there is one at a time, and each waits for the one before it: over
1 Gbit/s and 1 ms an upload had a fifth of the link, now it has all of it (`perf.packets`).
"""
_LOWEST_FD = guard.LISTEN_FD
"""Descriptors below are rootlesskit's own in its child."""


def slirp4netns(mtu: int = MTU) -> tuple[str, ...]:
    """Return rootlesskit's options for a network of its own, with packets of `mtu` bytes."""
    return (
        "--net=slirp4netns",
        f"--mtu={mtu}",
        "--slirp4netns-sandbox=auto",
        "--slirp4netns-seccomp=auto",
        "--disable-host-loopback",
    )


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
        words += [*slirp4netns(), "--copy-up=/etc"]
    else:
        words.append("--net=host")
    words += [sys.executable, "-I", "-S", "-c", _BOOT, _LIBRARY]
    words += ["--control-fd", str(descriptors.control)]
    words += ["--listen-fd", str(-1 if descriptors.listener is None else descriptors.listener)]
    words += ["--lock-fd", str(-1 if descriptors.lock is None else descriptors.lock)]
    if options.network == "own":
        for cidr in options.deny:
            words += ["--deny", cidr]
    return words


class Rootlesskit:
    """A rootlesskit that was started, and the namespace that it made."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, begins: int) -> None:
        """The log's bytes before `begins` are an earlier namespace's."""
        self._process = process
        self._log = log
        self._log_begins = begins
        self._namespace: int | None = None

    @property
    def pid(self) -> int:
        """Of rootlesskit itself, outside the namespace."""
        return self._process.pid

    async def wait(self) -> int:
        """Returns the exit status when rootlesskit has ended, negative for a signal."""
        return await self._process.wait()

    async def orphaned(self) -> None:
        """Returns when its child is dead and it goes on waiting for a word of it.

        Which it does for ever when that was killed while it made the namespace: rootlesskit holds
        the other end, too, of the pipe that it reads from.
        """
        seen: int | None = None
        while True:
            await asyncio.sleep(_LOOK_AFTER)
            dead = await asyncio.to_thread(userns.dead_child, self.pid, _CHILD)
            if dead is not None and dead == seen:
                return
            seen = dead

    def kill(self) -> None:
        """SIGKILL, for one that does not end by itself."""
        self._process.kill()

    def entered(self, pid: int) -> None:
        """Learns from a process in the namespace which one it is; OSError when that is gone."""
        self._namespace = userns.namespace_of(pid)

    async def kill_left(self, *, last: int | None) -> tuple[int, ...]:
        """Kills what is left in the namespace, `last` last; answers who did not end even then.

        For what outlived a guard that was killed itself; call it when rootlesskit has ended.
        """
        namespace, self._namespace = self._namespace, None
        if namespace is None:
            return ()
        try:
            return tuple(await asyncio.to_thread(userns.kill_all, namespace, last=last))
        finally:
            os.close(namespace)

    def said(self) -> str:
        """The end of the log."""
        try:
            with self._log.open("rb") as file:
                end = os.fstat(file.fileno()).st_size
                file.seek(max(self._log_begins, end - _LOG_TAIL))
                return file.read().decode(errors="replace").strip()
        except OSError as error:
            return f"no log: {error.strerror}"

    def unfit(self) -> EnvironmentUnfit:
        """The error for one that ended before the guard spoke, from what it said."""
        return userns.explain(self.said())


async def start_guard(options: NamespaceOptions, control: socket.socket) -> Rootlesskit:
    """Starts rootlesskit and in it the guard, with `control` as the guard's socket.

    In the main thread: the child hangs on who forks it. Raises EnvironmentUnfit saying what the
    machine lacks, CannotCreate for a log or state directory that cannot be made.
    """
    userns.check(options.rootlesskit, options.environment, options.network)
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
            begins = log.tell()
        except OSError as error:
            raise CannotCreate(f"cannot create {error.filename}: {error.strerror}") from error
        try:
            process = await asyncio.create_subprocess_exec(
                *command(options, descriptors),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={k: v for k, v in options.environment.items() if k in ENVIRONMENT},
                pass_fds=descriptors.all(),
                # Ctrl-C in a terminal is for the sidecar alone.
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentUnfit(
                f"{options.rootlesskit} cannot be executed",
                expected="a program for this machine, with the interpreter that its #! names",
                found=error.strerror or str(error),
                advice="install rootlesskit or name its path",
            ) from error
    return Rootlesskit(process, options.log, begins)
