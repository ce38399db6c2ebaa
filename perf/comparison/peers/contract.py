"""What a peer is asked to do, and what it tells."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from perf.comparison.place import Place, Traffic, traffic
from perf.watch import Memory, MemoryWatch, cpu_seconds

Record = dict[str, Any]
"""What a round has shown, as `perf.reporting.results.Record` reads it. All times are seconds."""

Span = tuple[str, float, float]
"""What was done, and when it began and ended in seconds from the start of the pod."""


class Peer(ABC):
    """One way to build images in CI. A side of the comparison: first() once, then again().

    ``family`` names the peers that share a cache, and so must never build the same twice;
    ``cold`` says that every build is a first one.
    """

    cold = False

    def __init__(self, place: Place, name: str, family: str = "") -> None:
        self.place = place
        self.name = name
        self.family = family or name

    @abstractmethod
    def first(self) -> Record:
        """Build for the first time, and fill the cache as CI's builds of the main branch would."""

    @abstractmethod
    def again(self) -> Record:
        """Build the project as it is now in a fresh pod. Raises PerfError."""

    def close(self) -> None:  # noqa: B027 - most have nothing that stays up
        """End what stays up between builds, and remove its files."""

    def image(self, target: str = "") -> str:
        """Name of the image to push; ``target`` of a project that makes several."""
        return f"{self.place.images.host}/built/{self._own(target)}{self.place.pod}:latest"

    def cache(self, target: str = "") -> str:
        """Name of the image, or the repository, that holds the cache."""
        return f"{self.place.images.host}/cache/{self._own(target)}:latest"

    def _own(self, target: str) -> str:
        name = self.place.project.name
        return f"{name}/{target}" if target else name


@dataclass
class Meter:
    """What one pod costs from the start of its first process; begin it just before that."""

    pid: int = 0
    memory: Memory = field(default_factory=Memory)
    began: float = field(default_factory=time.monotonic)
    began_unix: float = field(default_factory=time.time)
    _before: Traffic = field(default_factory=traffic)
    _watch: MemoryWatch | None = None

    def watch(self, pid: int) -> None:
        """Watch the pod, of which this is the outermost process."""
        self.pid = pid
        self._watch = MemoryWatch(pid, self.memory)
        self._watch.__enter__()

    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def processor(self) -> float:
        """Processor seconds of the pod so far."""
        return cpu_seconds(self.pid)

    def close(self) -> Record:
        """Return memory and traffic; nothing is watched any more."""
        if self._watch is not None:
            self._watch.__exit__(None, None, None)
        moved = traffic().since(self._before)
        return {
            "memory_bytes": self.memory.all,
            "received_bytes": moved.received,
            "sent_bytes": moved.sent,
        }
