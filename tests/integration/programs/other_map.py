"""`other_map.py CMD…` runs CMD as root of a user namespace whose map of ids is not rootlesskit's.

The caller's subordinate ids are used in another order: each file owner of one map is another one
in the other.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import subprocess
import sys
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000


def rotated(file: str, name: str, own: int) -> list[str]:
    """Arguments for newuidmap: 0 is oneself, then the second half of the range, then the first."""
    for line in Path(file).read_text().splitlines():
        owner, start, count = line.split(":")
        if owner == name:
            half = int(count) // 2
            second = [1, int(start) + half, int(count) - half]
            first = [1 + second[2], int(start), half]
            return [str(number) for number in (0, own, 1, *second, *first)]
    raise SystemExit(f"{name} has no range in {file}")


def main(command: list[str]) -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    unshared_read, unshared = os.pipe()
    mapped, mapped_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "unshare")
        os.write(unshared, b".")
        assert os.read(mapped, 1) == b"."
        os.setgid(0)
        os.setuid(0)
        os.execvp(command[0], command)
    assert os.read(unshared_read, 1) == b"."
    uids = rotated("/etc/subuid", name, os.getuid())
    gids = rotated("/etc/subgid", name, os.getgid())
    subprocess.run(["newuidmap", str(pid), *uids], check=True)
    subprocess.run(["newgidmap", str(pid), *gids], check=True)
    os.write(mapped_write, b".")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
