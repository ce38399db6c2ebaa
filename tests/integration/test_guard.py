"""The guard with real processes in a real user namespace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import EnvironmentUnfit
from sidecar import guardclient, userns
from sidecar.agent import routes
from sidecar.guardclient import (
    AgentExited,
    DaemonExited,
    Event,
    Namespace,
    NamespaceEnded,
    NamespaceLostError,
    StartError,
)
from sidecar.rootlesskit import NamespaceOptions, Rootlesskit
from sidecar.userns import EndedEarly
from tests.integration.proctree import below, command_line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).parents[2]
BLOBS = 4
_ROOTLESSKIT = shutil.which(
    "rootlesskit", path=f"{os.environ.get('BUILDSVC_BIN', '')}:{os.environ['PATH']}"
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(_ROOTLESSKIT is None, reason="rootlesskit is not there (make tools)"),
    pytest.mark.skipif(os.getuid() == 0, reason="rootless: run as a user with subordinate ids"),
]


class Scene:
    """A namespace, and what the programs in it say."""

    def __init__(self, directory: Path, options: NamespaceOptions) -> None:
        self.directory = directory
        self.options = options
        self.blobs = directory / "blobs"
        self.blobs.mkdir()
        self.namespace = Namespace(options)
        self.pipes = contextlib.ExitStack()
        self._events = self.namespace.events()

    async def event(self) -> Event:
        return await anext(self._events)

    async def ended(self) -> NamespaceEnded:
        while not isinstance(event := await self.event(), NamespaceEnded):
            pass
        return event

    def guard(self) -> int:
        """The guard's pid: the agent's or the daemon's parent."""
        assert self.namespace._ready.done()
        return self.namespace._ready.result()

    async def output(self) -> tuple[asyncio.StreamReader, int]:
        """A pipe: its reading end in the loop, and the number of its writing end."""
        read, write = os.pipe()
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb", buffering=0)
        )
        self.pipes.callback(transport.close)
        return reader, write

    async def agent(self, mode: str) -> tuple[int, asyncio.StreamReader]:
        """Starts the agent; returns when its blobs are placed."""
        reader, write = await self.output()
        try:
            pid = await self.namespace.start_agent(
                [
                    sys.executable,
                    str(PROGRAMS / "guarded_agent.py"),
                    str(self.blobs),
                    str(BLOBS),
                    mode,
                ],
                {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
                log=write,
            )
        finally:
            os.close(write)
        assert await reader.readline() == b"probe None\n"
        assert await reader.readline() == b"placed %d\n" % BLOBS
        return pid, reader

    async def daemon(self, *argv: str, **environment: str) -> tuple[int, asyncio.StreamReader]:
        """Starts the opener, or another Python program, in the daemon's place."""
        reader, write = await self.output()
        words = argv or (str(PROGRAMS / "opener.py"), str(self.blobs), str(BLOBS), "children")
        try:
            started = await self.namespace.start_daemon(
                [sys.executable, "-I", "-S", *words], environment, nofsync=True, log=write
            )
        finally:
            os.close(write)
        assert started.nofsync == ""
        return started.pid, reader

    async def close(self) -> None:
        await self.namespace.close()
        self.pipes.close()


def _options(directory: Path) -> NamespaceOptions:
    assert _ROOTLESSKIT is not None
    os.makedirs(directory, exist_ok=True)
    return NamespaceOptions(
        rootlesskit=_ROOTLESSKIT,
        state_dir=directory / "state",
        log=directory / "log",
        network="host",
        environment={**os.environ, "AWS_SECRET_ACCESS_KEY": "sesame"},
    )


@contextlib.asynccontextmanager
async def scene(directory: Path, **changes: object) -> AsyncIterator[Scene]:
    it = Scene(directory, replace(_options(directory), **changes))  # type: ignore[arg-type]
    try:
        await it.namespace.start()
        yield it
    finally:
        await it.close()


async def broken(agent: asyncio.StreamReader, count: int = BLOBS) -> None:
    """Waits until this many openers wait."""
    for _ in range(count):
        assert (await agent.readline()).startswith(b"broken ")


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def parent(pid: int) -> int:
    (line,) = (line for line in read(f"/proc/{pid}/status").splitlines() if b"PPid" in line)
    return int(line.split()[1])


def alive(pid: int) -> bool:
    try:
        return b"\nState:\tZ" not in read(f"/proc/{pid}/status")
    except (FileNotFoundError, ProcessLookupError):
        return False


def opener(it: Scene, how: str) -> list[str]:
    return [str(PROGRAMS / "opener.py"), str(it.blobs), str(BLOBS), how]


async def kill_agent_while_openers_wait(directory: Path, how: str) -> None:
    async with scene(directory) as it:
        agent, agent_says = await it.agent("half")
        _, daemon_says = await it.daemon(*opener(it, how))
        await broken(agent_says)
        os.kill(agent, signal.SIGKILL)
        # Ends only with the last opener: each holds the pipe.
        said = await daemon_says.read()
        assert b"opening\n" in said
        assert b"opened" not in said
        assert await it.event() == DaemonExited(-signal.SIGKILL, asked=False)
        assert await it.event() == AgentExited(-signal.SIGKILL)
        assert (await it.ended()).status == 3
    shutil.rmtree(directory)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_no_opener_reads_zeros_when_the_agent_is_killed_a_hundred_times(
    tmp_path: Path,
) -> None:
    async def rounds(how: str) -> None:
        for number in range(50):
            await kill_agent_while_openers_wait(tmp_path / f"{how}{number}", how)

    async with asyncio.TaskGroup() as group:
        group.create_task(rounds("threads"))
        group.create_task(rounds("children"))


async def test_leased_blobs_are_read_whole_when_served(tmp_path: Path) -> None:
    async with scene(tmp_path / "s") as it:
        _, agent_says = await it.agent("serve")
        _, daemon_says = await it.daemon()
        await broken(agent_says)
        seen: set[bytes] = set()
        while len(seen) < BLOBS:
            words = (await daemon_says.readline()).split()
            if words[0] == b"opened":
                assert words[2:] == [b"zeros", b"0", b"bytes", b"65536"]
                seen.add(words[1])
        assert await it.namespace.stop_daemon(5) == -signal.SIGTERM


async def test_a_death_while_the_namespace_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At some moments rootlesskit does not notice its child's."""
    monkeypatch.setattr(guardclient, "READY_TIMEOUT", 1000.0)
    for number in range(20):
        options = replace(_options(tmp_path / f"{number}"), network=userns.network_mode({}).mode)
        namespace = Namespace(options)
        await namespace.begin()
        process = namespace._process
        assert isinstance(process, Rootlesskit)
        children: list[int] = []
        while not children:
            await asyncio.sleep(0)
            children = [pid for pid in below(process.pid) if "/proc/self/exe" in command_line(pid)]
        await asyncio.sleep(number / 200)  # All moments until the guard is there.
        os.kill(children[0], signal.SIGKILL)
        # The last ones come too late, and perhaps the first ones too.
        with contextlib.suppress(EndedEarly):
            await namespace.start()
        await namespace.close()


@pytest.mark.parametrize("victim", ["guard", "rootlesskit", "rootlesskit's child"])
async def test_death_of_the_guard_or_of_what_is_above_it(tmp_path: Path, victim: str) -> None:
    for number in range(10):
        async with scene(tmp_path / f"s{number}") as it:
            agent, agent_says = await it.agent("half")
            daemon, daemon_says = await it.daemon(*opener(it, "threads"))
            await broken(agent_says)
            process = it.namespace._process
            assert isinstance(process, Rootlesskit)
            victims = {
                "guard": it.guard(),
                "rootlesskit": process.pid,
                "rootlesskit's child": parent(it.guard()),
            }
            os.kill(victims[victim], signal.SIGKILL)
            said = await daemon_says.read()
            assert b"opened" not in said
            ended = await it.ended()
            assert ended.survivors == ()
            assert not any(alive(pid) for pid in (agent, daemon, *victims.values()))
            with pytest.raises(NamespaceLostError):
                await it.namespace.stop_daemon(0)


async def test_agent_ends_the_daemon_before_itself_when_the_guard_dies(tmp_path: Path) -> None:
    async with scene(tmp_path / "s") as it:
        _, agent_says = await it.agent("serve")
        daemon, daemon_says = await it.daemon(
            "-c", "import signal; print(flush=True); signal.pause()"
        )
        await daemon_says.readline()
        os.kill(it.guard(), signal.SIGKILL)
        said = await agent_says.read()
        # Killed with the rest of the namespace at the latest; if it came to speak, it was in order.
        assert said in (b"guard-gone\n", b"")
        assert not alive(daemon)


async def test_death_of_the_sidecar(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAMS / "short_sidecar.py"),
        str(_ROOTLESSKIT),
        str(tmp_path),
        str(BLOBS),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    waiting = 0
    while waiting < BLOBS:
        line = await process.stdout.readline()
        assert line
        assert not line.startswith(b"opened")
        waiting += line.startswith(b"broken ")
    process.kill()
    # Every process of the namespace that matters holds the pipe.
    rest = await process.stdout.read()
    await process.wait()
    assert b"opened" not in rest


async def test_exit_of_the_daemon_alone_is_reported_and_nothing_of_it_is_left(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path / "s") as it:
        agent, _ = await it.agent("half")
        daemon, daemon_says = await it.daemon()
        while await daemon_says.readline() != b"opening\n":
            pass
        os.kill(daemon, signal.SIGKILL)
        await daemon_says.read()
        assert await it.event() == DaemonExited(-signal.SIGKILL, asked=False)
        assert alive(agent)
        again, _ = await it.daemon("-c", "raise SystemExit(7)")
        assert again != daemon
        assert await it.event() == DaemonExited(7, asked=False)


async def test_a_stubborn_daemon_is_killed_after_its_grace(tmp_path: Path) -> None:
    async with scene(tmp_path / "s") as it:
        await it.agent("half")
        _, daemon_says = await it.daemon(STUBBORN="1")
        while await daemon_says.readline() != b"opening\n":
            pass
        assert await it.namespace.stop_daemon(0.1) == -signal.SIGKILL
        assert await it.event() == DaemonExited(-signal.SIGKILL, asked=True)


async def test_a_paused_daemon_can_be_stopped(tmp_path: Path) -> None:
    # With a handler, as buildkitd has: it runs only once the process is continued.
    program = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); "
        "print(flush=True); signal.pause()"
    )
    async with scene(tmp_path / "s") as it:
        daemon, says = await it.daemon("-c", program)
        await says.readline()
        os.kill(daemon, signal.SIGSTOP)
        assert await it.namespace.stop_daemon(10) == 5


async def test_listener_is_descriptor_three_of_each_daemon(tmp_path: Path) -> None:
    greet = (
        "import os, socket; "
        "assert os.environ['LISTEN_FDS'] == '1' and os.environ['LISTEN_PID'] == str(os.getpid()); "
        "listener = socket.socket(fileno=3); "
        "listener.accept()[0].sendall(b'hello'); "
        # What lists the directory is the one more.
        "assert sorted(os.listdir('/proc/self/fd')) == list('01234'), os.listdir('/proc/self/fd')"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with scene(tmp_path / "s", listener=listener.fileno()) as it:
            for _ in range(2):
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                _, says = await it.daemon("-c", greet)
                assert await reader.read() == b"hello"
                writer.close()
                assert (await says.read()).decode() == ""
                assert await it.event() == DaemonExited(0, asked=False)


async def test_lock_is_held_until_the_namespace_has_ended(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    read, write = os.pipe()
    try:
        async with scene(tmp_path / "s", lock=write) as it:
            await it.agent("half")
            os.close(write)
            os.set_blocking(read, False)
            with pytest.raises(BlockingIOError):
                os.read(read, 1)
        assert os.read(read, 1) == b""
    finally:
        os.close(read)
        os.close(lock)


async def test_what_cannot_be_started_is_an_error_and_no_end(tmp_path: Path) -> None:
    async with scene(tmp_path / "s") as it:
        with pytest.raises(StartError, match="no-such-program"):
            await it.namespace.start_daemon(["no-such-program"], {}, nofsync=True)
        with pytest.raises(StartError, match="no-such-program"):
            await it.namespace.start_agent(["no-such-program"], {})
        with pytest.raises(StartError, match="no daemon"):
            await it.namespace.stop_daemon(0)
        await it.agent("half")
        with pytest.raises(StartError, match="runs already"):
            await it.namespace.start_agent([sys.executable], {})


async def test_no_secret_and_little_memory(tmp_path: Path) -> None:
    async with scene(tmp_path / "s") as it:
        await it.agent("half")
        environment = read(f"/proc/{it.guard()}/environ")
        assert b"PATH=" in environment
        assert b"sesame" not in environment
        _, says = await it.daemon("-c", "print(open('/proc/self/environ').read())", ONE="1")
        assert await says.readline() == b"ONE=1\0\n"
        (resident,) = (
            int(line.split()[1])
            for line in read(f"/proc/{it.guard()}/status").splitlines()
            if line.startswith(b"VmRSS")
        )
        assert resident < 15 * 1024


async def test_daemon_and_run_steps_do_without_fsync_but_keep_setuid(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys; "
        # A descriptor that cannot be synced answers EINVAL, unless nobody asks it.
        "read, write = os.pipe(); os.fsync(write); os.fdatasync(write); "
        "print([l for l in open('/proc/self/status') if l.startswith('NoNewPrivs')], flush=True); "
        "subprocess.run([sys.executable, '-c', 'import os; os.fsync(os.pipe()[1])'], check=True); "
        "print('fine')"
    )
    async with scene(tmp_path / "s") as it:
        _, says = await it.daemon("-c", program)
        assert (await says.read()).decode() == "['NoNewPrivs:\\t0\\n']\nfine\n"
        assert await it.event() == DaemonExited(0, asked=False)


@pytest.mark.skipif(
    userns.network_mode(os.environ).mode != "own", reason="/dev/net/tun or slirp4netns is missing"
)
async def test_metadata_addresses_are_unreachable_in_the_own_network(tmp_path: Path) -> None:
    program = (
        "import errno, socket\n"
        "for family, address in ((2, '169.254.169.254'), (2, '100.100.100.200'), \n"
        "                        (2, '198.51.100.9'), (10, 'fd00:ec2::254')):\n"
        "    with socket.socket(family, socket.SOCK_STREAM) as s:\n"
        "        print(errno.errorcode[s.connect_ex((address, 80))])\n"
    )
    deny = (*routes.METADATA, "198.51.100.0/24")
    async with scene(tmp_path / "s", network="own", deny=deny) as it:
        _, says = await it.daemon("-c", program)
        assert (await says.read()).decode().split() == ["EHOSTUNREACH"] * 4


@pytest.mark.skipif(
    userns.network_mode(os.environ).mode != "own", reason="/dev/net/tun or slirp4netns is missing"
)
async def test_an_address_that_cannot_be_denied_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit, match=r"deny-cidr"):
        async with scene(tmp_path / "s", network="own", deny=("10.0.2.0/24",)):
            pass


async def test_a_namespace_that_cannot_be_made(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (empty / name).write_text(
            "#!/bin/sh\necho newuidmap: write to uid_map failed >&2\nexit 1\n"
        )
        (empty / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{empty}:{os.environ['PATH']}"}
    with pytest.raises(EnvironmentUnfit, match="may not write the id maps"):
        async with scene(tmp_path / "s", environment=environment):
            pass


async def _in_a_namespace() -> asyncio.subprocess.Process:
    """A process that has just entered a user namespace, and ends with its input."""
    child = await asyncio.create_subprocess_exec(
        "unshare", "--user", "sh", "-c", "echo entered; exec cat",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert await child.stdout.readline() == b"entered\n"
    return child


async def test_a_later_namespace_is_not_taken_for_one_that_has_ended(tmp_path: Path) -> None:
    first = await _in_a_namespace()
    made = Rootlesskit(first, tmp_path / "log", 0)
    made.entered(first.pid)
    made.kill()
    await made.wait()
    # One of them would get the first one's number if nobody held that.
    later = [await _in_a_namespace() for _ in range(20)]
    assert await made.kill_left(last=None) == ()
    for child in later:
        await child.communicate(b"")
    assert [child.returncode for child in later] == [0] * len(later)
