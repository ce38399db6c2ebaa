"""Work that runs only when nobody else wants the processor or the disk.

Linux schedules threads, not processes, and an unprivileged one cannot come back from the idle
class (sched(7), ioprio_set(2)): so one thread is idle for good, and the others never are.

That counts among the threads of one control group, such as a pod's. Outside of any, where
autogroup is on, as it is on most distributions, each session is a group of its own with an equal
share (sched(7)): a thread of the idle class would take half a processor from a RUN step. There a
session's own niceness counts, and that can be taken back. The kernel takes one change of it in a
tenth of a second from the whole machine, so nobody asks where it does not count.
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_IDLE = 3 << 13

_AUTOGROUP = "/proc/self/autogroup"
#: The first namespace of control groups; in any other one all paths are relative (namespaces(7)).
_FIRST_NAMESPACE = "cgroup:[4026531835]"
#: Seconds in which the kernel takes one change of any session's niceness.
_AUTOGROUP_EVERY = 0.1
_AUTOGROUP_TRIES = 3


class Session:
    """A session of this process's own, and its niceness among sessions."""

    def __init__(self) -> None:
        """Leave the parent's session. Raises OSError where it leads a group of it."""
        os.setsid()
        self._nice = 0
        self._counts = session_counts()

    def be(self, *, idle: bool) -> None:
        """Give way to all other sessions, or to none. No error where that cannot be said.

        Who must not be idle any more does not wait until it is said either.
        """
        nice = 19 if idle else 0
        if nice == self._nice or not self._counts:
            return
        for again in range(_AUTOGROUP_TRIES if idle else 1):
            if again:
                time.sleep(_AUTOGROUP_EVERY)
            try:
                with open(_AUTOGROUP, "wb", buffering=0) as autogroup:
                    # Nothing is written while the kernel takes no change.
                    if autogroup.write(b"%d" % nice):
                        self._nice = nice
                        return
            except OSError:
                return


def session_counts(
    process: Path = Path("/proc/self"), groups: Path = Path("/sys/fs/cgroup")
) -> bool:
    """Return whether sessions share the processor here, as they do outside of control groups."""
    try:
        if os.readlink(process / "ns/cgroup") != _FIRST_NAMESPACE:
            return False
        lines = (process / "cgroup").read_text().splitlines()
    except OSError:
        # A kernel without them.
        return True
    paths = {tuple(line.split(":", 2)[1].split(",")): line.split(":", 2)[2] for line in lines}
    for controllers, path in paths.items():
        if "cpu" in controllers:
            return path == "/"
    return paths.get(("",), "/") == "/" or not _shares_processor(groups)


def _shares_processor(groups: Path) -> bool:
    """Whether the second version's groups have shares of the processor, or are only names."""
    try:
        return "cpu" in (groups / "cgroup.subtree_control").read_text().split()
    except OSError:
        return True


class IdleThread:
    """Runs functions, one at a time, in a thread of the lowest priority."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "idle", initializer=become_idle)

    def run(self, work: Callable[[], T]) -> T:
        """Call `work` in the thread; return or raise what it does."""
        return self._executor.submit(work).result()


def become_idle() -> None:
    """Give this thread, and those it starts from now on, the lowest priority."""
    # A sandbox may forbid any of them. Work at a higher priority is better than none.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 19)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)
