"""Processes as the kernel tells of them."""

from __future__ import annotations

import os
from pathlib import Path


def command_line(pid: int) -> str:
    """Return a process' command line, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def parent(pid: int) -> int:
    """Return a process' parent, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


def below(pid: int) -> list[int]:
    """Return the descendants of a process."""
    # Not from /proc/PID/task/*/children: that may miss some while others end.
    parents = {one: parent(one) for one in map(int, filter(str.isdigit, os.listdir("/proc")))}
    found, wanted = list[int](), {pid}
    while wanted:
        wanted = {one for one, of in parents.items() if of in wanted}
        found += wanted
    return found
