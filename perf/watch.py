"""Reads /proc: memory and processor time of a process and of everything it started."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

_TICKS = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True)
class Stat:
    """One process: its parent and the processor seconds of it and of the children it waited for."""

    parent: int
    cpu: float


def read_stat(text: bytes) -> Stat:
    """Parse ``/proc/PID/stat`` (proc(5))."""
    # The command may hold blanks and parentheses; state and parent follow the last one.
    fields = text.rpartition(b")")[2].split()
    return Stat(int(fields[1]), sum(int(ticks) for ticks in fields[11:15]) / _TICKS)


def processes() -> dict[int, Stat]:
    """Return all processes by pid."""
    found = {}
    for name in os.listdir(_PROC):
        if name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                found[int(name)] = read_stat((_PROC / name / "stat").read_bytes())
    return found


def descendants(pid: int, table: dict[int, Stat]) -> list[int]:
    """Return the process and everything below it."""
    children = defaultdict(list)
    for child, stat in table.items():
        children[stat.parent].append(child)
    found = [pid] if pid in table else []
    for known in found:
        found.extend(children[known])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the processor seconds of a process and all below it, dead ones included."""
    table = processes()
    return sum(table[member].cpu for member in descendants(pid, table))


def cpu_by_role(pid: int) -> dict[str, float]:
    """As `cpu_seconds`, by the part of the pod that spent them."""
    table = processes()
    found: dict[str, float] = defaultdict(float)
    for member in descendants(pid, table):
        command = command_of(member)
        if command is not None:
            found[role(command)] += table[member].cpu
    return dict(found)


def command_of(pid: int) -> str | None:
    """Return a process' command line with blanks between the arguments; None when it is gone."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def role(command: str) -> str:
    """Tell from a command line (blanks between the arguments) which part of a pod it is."""
    words = command.split(" ")
    first = os.path.basename(words[0])
    if "-m sidecar.agent.worker" in command:
        return "worker"
    if "-m sidecar.agent " in f"{command} ":
        return "agent"
    if "-m sidecar run" in command or (first == "sidecar" and "run" in words):
        return "sidecar"
    if "sidecar.agent.guard" in command:
        return "guard"
    # rootlesskit calls its child /proc/self/exe.
    return "rootlesskit" if first == "exe" else first


@dataclass
class Memory:
    """Peaks in bytes: ``all`` of everything, ``together`` of sidecar and agent at one moment,
    ``roles`` of any one process of a role, as seen in samples; ``high_water`` as the kernel saw
    it (VmHWM).
    """

    all: int = 0
    together: int = 0
    roles: dict[str, int] = field(default_factory=dict)
    high_water: dict[str, int] = field(default_factory=dict)

    def add(self, sample: list[tuple[str, int, int]]) -> None:
        """Take in one moment: (role, resident bytes, high water) of each process."""
        for name, resident, high in sample:
            self.roles[name] = max(self.roles.get(name, 0), resident)
            self.high_water[name] = max(self.high_water.get(name, 0), high)
        pair = sum(resident for name, resident, _ in sample if name in {"sidecar", "agent"})
        self.together = max(self.together, pair)
        self.all = max(self.all, sum(resident for _, resident, _ in sample))


def memory_of(pid: int) -> tuple[str, int, int] | None:
    """Return role, resident bytes and high water of a process; None when it is gone."""
    base = _PROC / str(pid)
    command = command_of(pid)
    if command is None:
        return None
    try:
        values = {}
        for line in (base / "status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in {"VmRSS", "VmHWM"}:
                values[name] = int(value.split()[0]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie has no memory.
    return (role(command), values["VmRSS"], values["VmHWM"]) if "VmRSS" in values else None


class MemoryWatch:
    """Samples a process and all below it into ``peaks`` while it is entered.

    ``every`` so many seconds; with several watches at once more seldom, so that together they take
    no more of the processors than one does.
    """

    #: A set, since its changes are whole in whichever thread they are made.
    _entered: ClassVar[set[MemoryWatch]] = set()

    def __init__(self, pid: int, peaks: Memory, every: float = 0.25) -> None:
        self._peaks = peaks
        self._pid = pid
        self._every = every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._entered.add(self)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._entered.discard(self)

    def _run(self) -> None:
        while True:
            found = (memory_of(pid) for pid in descendants(self._pid, processes()))
            self._peaks.add([sample for sample in found if sample is not None])
            if self._ended.wait(self._every * len(self._entered)):
                return


def listens(port: int, table: str) -> bool:
    """Tell from the text of ``/proc/net/tcp`` whether somebody listens on the port.

    Unlike a connection this is no client, for whom a sidecar would hurry.
    """
    wanted = f":{port:04X}"
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(wanted) and fields[3] == "0A":
            return True
    return False
