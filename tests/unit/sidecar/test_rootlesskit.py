from __future__ import annotations

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from buildsvc.errors import CannotCreate, EnvironmentUnfit
from sidecar.rootlesskit import Descriptors, NamespaceOptions, command, start_guard

_GUARD = """#!{python} -IS
import os, socket, sys
arguments = sys.argv[1:]
number = lambda option: int(arguments[arguments.index(option) + 1])
socket.socket(fileno=number("--control-fd")).send(b"hello")
print(sorted(os.environ), os.fstat(number("--listen-fd")).st_ino, flush=True)
print("line", "x" * 5000, "the end")
sys.exit(7)
"""


_OPTIONS = NamespaceOptions(
    rootlesskit="rootlesskit",
    state_dir=Path("/state"),
    log=Path("/log"),
    network="own",
    environment={"PATH": "/nowhere"},
    deny=("192.0.2.0/24", "fd00::/8"),
)


@pytest.fixture
def machine(tmp_path: Path) -> NamespaceOptions:
    """A machine that has everything, with a program of ours in rootlesskit's place."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("newuidmap", "newgidmap", "getsubids", "rootlesskit"):
        (programs / name).write_text(_GUARD.format(python=sys.executable))
        (programs / name).chmod(0o755)
    return replace(
        _OPTIONS,
        state_dir=tmp_path / "run" / "state",
        log=tmp_path / "log",
        network="host",
        environment={"PATH": str(programs), "LANG": "C.UTF-8", "AWS_SECRET_ACCESS_KEY": "sesame"},
    )


def test_own_network_reaches_neither_the_hosts_loopback_nor_what_is_denied() -> None:
    words = command(_OPTIONS, Descriptors(control=31, listener=30, lock=32))
    assert "--net=slirp4netns" in words
    (packet,) = (int(word.partition("=")[2]) for word in words if word.startswith("--mtu="))
    # With fewer than four in its window of 64 KiB, each waits for the one before it.
    assert 1 << 13 <= packet <= 1 << 14
    assert "--disable-host-loopback" in words
    assert words[-4:] == ["--deny", "192.0.2.0/24", "--deny", "fd00::/8"]
    assert words[words.index("--listen-fd") + 1] == "30"


def test_routes_of_the_hosts_network_are_left_alone() -> None:
    words = command(
        replace(_OPTIONS, network="host"), Descriptors(control=40, listener=None, lock=None)
    )
    assert "--net=host" in words
    assert "--deny" not in words
    # The defaults of the guard could be somebody else's descriptors.
    assert words[words.index("--listen-fd") + 1] == "-1"
    assert words[words.index("--lock-fd") + 1] == "-1"


async def test_the_guard_gets_its_descriptors_and_no_secret(machine: NamespaceOptions) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as listener:
        process = await start_guard(replace(machine, listener=listener.fileno()), theirs)
        assert await process.wait() == 7
        ours.settimeout(0)
        assert ours.recv(100) == b"hello"
        first = machine.log.read_text().splitlines()[0]
        assert first == f"['LANG', 'PATH'] {os.fstat(listener.fileno()).st_ino}"
    assert machine.state_dir.stat().st_mode & 0o777 == 0o700


async def test_what_it_said_last_is_kept_and_explains_its_end(machine: NamespaceOptions) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = await start_guard(replace(machine, listener=theirs.fileno()), theirs)
        await process.wait()
    assert process.said().endswith("x the end")
    assert len(process.said()) < 5000
    assert "x the end" in str(process.unfit())
    machine.log.unlink()
    assert process.said() == "no log: No such file or directory"


async def test_a_namespace_that_nobody_was_seen_in_has_nothing_to_kill(
    machine: NamespaceOptions,
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        process = await start_guard(machine, theirs)
        process.kill()
        await process.wait()
    assert await process.kill_left(last=None) == ()


async def test_a_machine_that_lacks_something(machine: NamespaceOptions) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        with pytest.raises(EnvironmentUnfit, match="no-such-program is not there"):
            await start_guard(replace(machine, rootlesskit="no-such-program"), theirs)
        machine.log.mkdir()
        with pytest.raises(CannotCreate, match="log: Is a directory"):
            await start_guard(machine, theirs)


async def test_a_program_that_cannot_be_executed(machine: NamespaceOptions) -> None:
    program = Path(machine.environment["PATH"]) / "rootlesskit"
    program.write_text("#!/no/such/interpreter\n")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(EnvironmentUnfit, match="rootlesskit cannot be executed"):
        await start_guard(replace(machine, rootlesskit=str(program)), theirs)
