"""Many fresh pods at one moment, of one kind, on one store or registry."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from perf.comparison.peers.contract import Meter, Peer, Record
from perf.comparison.place import Place
from perf.project import copy


class Crowd(Peer):
    """``size`` pods that begin at once, each with a change and a name of its own.

    What a record says is that of the slowest one; ``each`` has them all.
    """

    def __init__(self, place: Place, make: Callable[[Place], Peer], size: int) -> None:
        one = make(place)
        super().__init__(place, f"{one.name}-x{size}", one.family)
        self._one = one
        self._others = [make(self._beside(number)) for number in range(1, size)]

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
        slowest = max(records, key=lambda each: each["seconds"] or each["build_seconds"])
        return {
            **slowest,
            **meter.close(),
            "cpu_seconds": round(sum(record["cpu_seconds"] for record in records), 2),
            "memory_bytes": sum(record["memory_bytes"] for record in records),
            "each": [record["seconds"] for record in records],
        }
