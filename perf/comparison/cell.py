"""Compares peers on one scenario, on the builders' side of a network.

    python -m perf.comparison.cell JSON

`perf.comparison.measure` starts it there, tells it in JSON what to measure (`Task`), and reads a
record a line.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from perf.commandline import INTERRUPTED, interrupt_on_sigterm
from perf.comparison.peers.contract import Peer, Record
from perf.comparison.peers.table import peers_of
from perf.comparison.place import Place, Wanted, opened
from perf.host import PerfError, killed_for_memory

Emit = Callable[[Record], None]

_SAID = 2000
"""Letters of an error that the results keep, its last ones."""


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to measure. ``done`` says which rounds of which peers there are records of."""

    scenario: str
    peers: list[str]
    rounds: int
    #: An empty directory.
    scratch: str
    #: What a command begins with that is to run at the services' end, and its address.
    services: list[str]
    address: str
    #: What changes from build to build, and whether RUN steps have cache mounts.
    change: str = "line"
    mounts: bool = True
    #: How many families of peers take turns, before the next ones do: memory cannot hold what all
    #: of them have. All of them where it is 0.
    at_once: int = 0
    medium: str = "tmpfs"
    done: dict[str, list[int]] = {}

    def wanted(self) -> Wanted:
        """Return what the place must have."""
        # No peer shares its cache with more than two others, and all settle once.
        revisions = 3 * (self.rounds + 1) if self.change == "base" else 0
        return Wanted(self.scenario, self.change, self.mounts, revisions)

    def missing(self, peer: str) -> list[int]:
        """Return the rounds of a peer that are still to be measured."""
        return [number for number in range(self.rounds) if number not in self.done.get(peer, [])]


class Cell:
    """One comparison: caches are filled, then the peers take turns."""

    def __init__(self, place: Place, task: Task, emit: Emit) -> None:
        self._place = place
        self._task = task
        self._emit = emit
        self._failed: list[str] = []
        self._turn = 0

    def run(self) -> list[str]:
        """Measure what is missing; return the peers that failed, left out from then on."""
        wanted = [name for name in self._task.peers if self._task.missing(name)]
        left = peers_of(self._place, wanted)
        try:
            while left:
                families = list(dict.fromkeys(peer.family for peer in left))
                families = families[: self._task.at_once or None]
                turn = [peer for peer in left if peer.family in families]
                self._turns(turn)
                left = [peer for peer in left if peer not in turn]
                self._end(turn, families)
        finally:
            for peer in left:
                peer.close()
        return self._failed

    def _end(self, turn: Sequence[Peer], families: Sequence[str]) -> None:
        for peer in turn:
            peer.close()
        if self._task.at_once:
            for family in families:
                self._place.forget(family)

    def _turns(self, peers: Sequence[Peer]) -> None:
        self._turn = round(time.time())
        self._place.restore()
        for peer in peers:
            self._one(peer, "first", 0, peer.first)
        for peer in peers:
            if not peer.cold:
                # So that there is a trace, and that no layer is still to be pushed.
                self._changed(peer, "settle", 0)
        for number in range(self._task.rounds):
            for peer in _shuffled(peers, number):
                if number in self._task.missing(peer.name):
                    self._changed(peer, "again", number)

    def _changed(self, peer: Peer, kind: str, number: int) -> None:
        self._place.revise(peer.family)
        self._one(peer, kind, number, lambda: self._again(peer))

    def _again(self, peer: Peer) -> Record:
        record = peer.again()
        if (
            self._task.change != "nothing"
            and record["steps"]
            and record["cached"] == record["steps"]
        ):
            raise PerfError("every step was cached, though something has changed")
        return record

    def _one(self, peer: Peer, kind: str, number: int, measure: Callable[[], Record]) -> None:
        if peer.name in self._failed:
            return
        self._place.images.use(peer.family, empty=peer.cold)
        if self._task.medium == "disk":
            # What one has written is not to be another one's wait.
            os.sync()
        load, began, killed = os.getloadavg(), time.time(), killed_for_memory()
        about = {"peer": peer.name, "kind": kind, "round": number, "began_unix": began}
        record: Record | None
        try:
            record = measure()
            said = "it built"
        except PerfError as error:
            record, said = None, str(error)[-_SAID:]
        if killed_for_memory() > killed:
            record, said = None, f"{said}; the kernel killed a process: memory was used up"
        if record is None:
            # The others' hours are not lost for it; the next run tries it again.
            print(f"perf: error: {peer.name} {kind} {number + 1}: {said}", file=sys.stderr)
            self._failed.append(peer.name)
            self._emit(about | {"error": said})
        elif record:
            self._emit(about | {"turn": self._turn, "load_before": load} | record)


def _shuffled(peers: Sequence[Peer], number: int) -> Sequence[Peer]:
    """Each round has an order of its own, the same one in every run: nobody has one neighbour."""
    return sorted(peers, key=lambda peer: hashlib.sha256(f"{number} {peer.name}".encode()).digest())


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    interrupt_on_sigterm()
    task = msgspec.json.decode(argv[0], type=Task)
    os.environ["BUILDSVC_REGISTRY_ADDRESS"] = task.address

    def emit(record: Mapping[str, Any]) -> None:
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()

    services = tuple(task.services)
    try:
        with opened(task.wanted(), Path(task.scratch), services, task.address) as place:
            return 2 if Cell(place, task, emit).run() else 0
    except PerfError as error:
        print(f"perf: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
