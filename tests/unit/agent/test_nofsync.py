from __future__ import annotations

import os
import struct

import pytest

from sidecar.agent import nofsync
from tests.unit.agent.namespaces import CLONE_NEWUSER, run_in

ALLOW, SUCCESS = 0x7FFF0000, 0x00050000
CALLS = {
    "x86_64": (
        0xC000003E,
        {"fsync": 74, "fdatasync": 75, "sync": 162, "syncfs": 306, "sync_file_range": 277},
        26,
    ),
    "aarch64": (
        0xC00000B7,
        {"fsync": 82, "fdatasync": 83, "sync": 81, "syncfs": 267, "sync_file_range": 84},
        227,
    ),
}


def decide(program: bytes, number: int, arch: int, third: int = 0) -> int:
    """Runs the filter on one system call, as the kernel would."""
    data = struct.pack("<IIQ6Q", number, arch, 0, 0, 0, third, 0, 0, 0)
    code = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif operation == 0x15:
            at += if_true if accumulator == operand else if_false
        elif operation == 0x45:
            at += if_true if accumulator & operand else if_false
        else:
            assert operation == 0x06
            return int(operand)


@pytest.mark.parametrize("machine", list(CALLS))
def test_the_fsync_family_and_nothing_else_is_answered(machine: str) -> None:
    program = nofsync.program(machine)
    arch, always, _ = CALLS[machine]
    for number in range(600):
        expected = SUCCESS if number in always.values() else ALLOW
        assert decide(program, number, arch) == expected, number


@pytest.mark.parametrize("machine", list(CALLS))
def test_msync_is_answered_only_when_it_would_write(machine: str) -> None:
    program = nofsync.program(machine)
    arch, _, msync = CALLS[machine]
    ms_async, ms_invalidate, ms_sync = 1, 2, 4
    assert decide(program, msync, arch, ms_sync) == SUCCESS
    assert decide(program, msync, arch, ms_sync | ms_invalidate) == SUCCESS
    assert decide(program, msync, arch, ms_async) == ALLOW


@pytest.mark.parametrize("machine", list(CALLS))
def test_other_calling_conventions_are_let_through(machine: str) -> None:
    program = nofsync.program(machine)
    arch, always, _ = CALLS[machine]
    i386, x32 = 0x40000003, 0x40000000
    for number in always.values():
        assert decide(program, number, i386) == ALLOW
        assert decide(program, number | x32, arch) == ALLOW


def test_an_unknown_machine_is_an_error() -> None:
    with pytest.raises(OSError, match="no filter for riscv64"):
        nofsync.program("riscv64")


def test_installed_in_a_user_namespace_without_taking_setuid_away() -> None:
    def check() -> None:
        pipe = os.pipe()[1]
        with pytest.raises(OSError, match="Invalid argument"):
            os.fsync(pipe)
        nofsync.install()
        os.fsync(pipe)
        os.fdatasync(pipe)
        os.sync()
        with open("/proc/self/status") as file:
            assert "NoNewPrivs:\t0\n" in file.read()

    run_in(CLONE_NEWUSER, check)
