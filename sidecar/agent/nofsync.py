"""A seccomp filter that answers the fsync family with success and does nothing.

A pod's root is thrown away, so whatever buildkitd and RUN steps flush to disk is wasted. The filter
is installed by the process that executes buildkitd and inherited from there. It needs
CAP_SYS_ADMIN in the process's user namespace. The other way, PR_SET_NO_NEW_PRIVS, is not taken: it
is inherited too and would take the rights of setuid programs (sudo, ping) in RUN steps.
Never for a process that writes to a store.

msync is answered only with MS_SYNC: MS_ASYNC does nothing in Linux anyway, and programs call it to
find out whether an address is mapped.

Source: seccomp(2), linux/seccomp.h, linux/filter.h, and the tables of system call numbers.
"""

from __future__ import annotations

import ctypes
import os
import struct

_SET_MODE_FILTER = 1
_FLAG_SPEC_ALLOW = 1 << 2
"""Without it older kernels turn speculative-store mitigations on for the whole process tree."""
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO_0 = 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_NR, _ARCH, _ARG2_LOW = 0, 4, 16 + 2 * 8
"""Offsets in struct seccomp_data; both architectures are little-endian."""
_MS_SYNC = 4


class _Numbers:
    """System call numbers; `always`: fsync, fdatasync, sync, syncfs, sync_file_range."""

    def __init__(self, audit_arch: int, seccomp: int, always: tuple[int, ...], msync: int) -> None:
        self.audit_arch = audit_arch
        self.seccomp = seccomp
        self.always = always
        self.msync = msync


_ARCHITECTURES = {
    "x86_64": _Numbers(0xC000003E, 317, (74, 75, 162, 306, 277), 26),
    "aarch64": _Numbers(0xC00000B7, 277, (82, 83, 81, 267, 84), 227),
}


def program(machine: str) -> bytes:
    """The filter as an array of struct sock_filter. Raises OSError for an unknown machine.

    System calls of another ABI of the same machine (32-bit programs, x32) are let through.
    """
    numbers = _numbers(machine)
    count = len(numbers.always)
    # Jumps are relative to the next instruction. The end: allow, then success.
    body = [
        (_LOAD, 0, 0, _ARCH),
        (_JUMP_EQUAL, 0, count + 4, numbers.audit_arch),
        (_LOAD, 0, 0, _NR),
        *(
            (_JUMP_EQUAL, count - index + 4 - 1, 0, number)
            for index, number in enumerate(numbers.always)
        ),
        (_JUMP_EQUAL, 0, 2, numbers.msync),
        (_LOAD, 0, 0, _ARG2_LOW),
        (_JUMP_SET, 1, 0, _MS_SYNC),
        (_RETURN, 0, 0, _RET_ALLOW),
        (_RETURN, 0, 0, _RET_ERRNO_0),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in body)


def install() -> None:
    """Filters this thread and all that it will execute or fork; there is no way back.

    Raises OSError: EACCES without CAP_SYS_ADMIN, ENOSYS or EINVAL where the kernel cannot.
    """
    machine = os.uname().machine
    code = program(machine)
    buffer = ctypes.create_string_buffer(code, len(code))

    class _Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    argument = _Program(len(code) // 8, ctypes.addressof(buffer))
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    number = _numbers(machine).seccomp
    if syscall(number, _SET_MODE_FILTER, _FLAG_SPEC_ALLOW, ctypes.byref(argument)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"seccomp: {os.strerror(error)}")


def _numbers(machine: str) -> _Numbers:
    try:
        return _ARCHITECTURES[machine]
    except KeyError:
        raise OSError(f"no filter for {machine}; there are ones for x86_64, aarch64") from None
