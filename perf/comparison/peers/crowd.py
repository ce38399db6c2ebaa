"""Many fresh pods at one moment, of one kind, on one store or registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from perf.comparison.names import crowd_of
from perf.comparison.peers.contract import Meter, Peer, Record
from perf.comparison.place import Place
from perf.project import copy


class Crowd(Peer):
    """``size`` pods that begin at once, each with a change and a name of its own.

    They are a family of their own: what so many leave in a cache is no other crowd's matter. What
    a record says is that of the slowest one; ``each`` has them all.
    """

    def __init__(
        self, place: Place, make: Callable[[Place, str], Peer], peer: str, size: int
    ) -> None:
        """``make`` makes one such ``peer`` at a place, for a family."""
        super().__init__(place, crowd_of(peer, size))
        self._one = make(place, self.family)
        beside = [self._beside(number) for number in range(1, size)]
        self._others = [make(there, self.family) for there in beside]

    def _beside(self, number: int) -> Place:
        """The same place with a working copy of its own, and another name for the image."""
        project = self.place.project
        context = copy(project.context, self.place.fresh("context"))
        dockerfile = context / project.dockerfile.relative_to(project.context)
        mine = replace(project, context=context, dockerfile=dockerfile)
        return replace(self.place, project=mine, pod=f"-{number}")

    def first(self) -> Record:
        """One pod's first build: the others start from what it has left."""
        return self._one.first()

    def again(self) -> Record:
        """Build in all pods at once."""
        for peer in self._others:
            # The places count their revisions together: each pod's change is its own.
            peer.place.revise(self.family)
        meter = Meter()
        with ThreadPoolExecutor(len(self._others) + 1) as pool:
            records = list(pool.map(lambda peer: peer.again(), [self._one, *self._others]))
        slowest = max(records, key=_waited)
        return {
            **slowest,
            **meter.close(),
            "cpu_seconds": round(sum(record["cpu_seconds"] for record in records), 2),
            "memory_bytes": sum(record["memory_bytes"] for record in records),
            "cold_reason": _cold(records),
            "each": [_waited(record) for record in records],
        }


def _waited(record: Record) -> float:
    """What a pod's user waited for: with a head start the build alone."""
    seconds = record["build_seconds"] if record["seconds"] is None else record["seconds"]
    return float(seconds)


def _cold(records: Sequence[Record]) -> str:
    """Why pods found no cache, and how many; empty if all found theirs."""
    reasons = [reason for record in records if (reason := record.get("cold_reason"))]
    found = "; ".join(sorted(set(reasons)))
    return f"{len(reasons)} of {len(records)} pods: {found}" if reasons else ""
