"""A command of a fresh pod, watched: its output with times, and what it cost."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from perf.host import PerfError, environment
from perf.watch import Memory, MemoryWatch, cpu_seconds

_SHOWN_LINES = 15


@dataclass(frozen=True)
class Ran:
    """A command that succeeded. ``lines`` of its output, each with the Unix seconds of its end."""

    began_unix: float
    ended_unix: float
    cpu_seconds: float
    lines: list[tuple[float, str]]


def run(command: Sequence[str], memory: Memory, added: Mapping[str, str] | None = None) -> Ran:
    """Run a command and wait; ``added`` goes into its environment, its peak into ``memory``.

    Raises PerfError with its last words when it fails.
    """
    began = time.time()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", env={**environment(), **(added or {})},
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            with MemoryWatch(process.pid, memory):
                lines = [(time.time(), line.rstrip("\n")) for line in process.stdout]
                # /proc tells its processor time as long as nobody has asked for its status.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            ended, cpu = time.time(), cpu_seconds(process.pid)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = [line for _, line in lines[-_SHOWN_LINES:]]
        failed = f"{shlex.join(command)} failed ({process.returncode}):"
        raise PerfError("\n".join([failed, *said]))
    return Ran(began, ended, cpu, lines)
