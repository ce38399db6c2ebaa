"""The order of the measurements: sides in turn, each round beginning with another one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from perf.bench import sides
from perf.bench.sides import Record
from perf.bench.site import Site


@dataclass(frozen=True)
class Plan:
    """How much to measure. ``head_start`` is in seconds."""

    rounds: int = 10
    cold_rounds: int = 10
    head_start: float = 20.0
    registry_cache: bool = True


@dataclass
class Measured:
    """One scenario's records, each with its round, its side and the load of the machine."""

    scenario: str
    records: list[Record] = field(default_factory=list)

    def values(self, side: str, name: str) -> list[float]:
        """Return one figure of every round of a side that has it."""
        found = (record for record in self.records if record["side"] == side)
        return [record[name] for record in found if record.get(name) is not None]


class Rounds:
    """Runs a scenario's rounds; ``save`` is called after each record, ``say`` told of it."""

    def __init__(
        self, place: Site, plan: Plan, save: Callable[[Measured], None], say: Callable[[str], None]
    ) -> None:
        self._place = place
        self._plan = plan
        self._save = save
        self._say = say
        self.measured = Measured(place.project.name)

    def run(self) -> Measured:
        """Measure everything. Raises PerfError when a side fails."""
        for number in range(self._plan.cold_rounds):
            self._cold(number, last=number == self._plan.cold_rounds - 1)
        self._settle()
        measurements = self._measurements()
        for number in range(self._plan.rounds):
            for side, measure in turned(measurements, number):
                self._one(side, number, measure)
        return self.measured

    def _cold(self, number: int, *, last: bool) -> None:
        place = self._place
        # Every round pushes whole images; the layers of the one before would pile up.
        place.registry.reset()
        both: list[tuple[str, Callable[[], Record]]] = [
            ("cold-pod", lambda: sides.cold_pod(place)),
            ("cold-stock", lambda: sides.cold_stock(place, keep=last)),
        ]
        for side, measure in turned(both, number):
            self._one(side, number, measure)

    def _settle(self) -> None:
        """One change on each side, so that there is a trace, and no blob is still to be pushed."""
        place = self._place
        self._one("settle-warm", 0, lambda: sides.warm(place))
        self._one("settle-pod", 0, lambda: sides.head_start_pod(place, self._plan.head_start))
        if self._plan.registry_cache:
            self._one("registry-cache-export", 0, lambda: sides.export_registry_cache(place))

    def _measurements(self) -> list[tuple[str, Callable[[], Record]]]:
        place, head_start = self._place, self._plan.head_start
        wanted: list[tuple[str, Callable[[], Record]]] = [
            ("warm", lambda: sides.warm(place)),
            ("pod-head-start", lambda: sides.head_start_pod(place, head_start)),
            ("pod-immediate", lambda: sides.immediate_pod(place)),
            ("pod-ready-local", lambda: sides.ready_local(place)),
        ]
        if self._plan.registry_cache:
            wanted.append(("registry-cache", lambda: sides.registry_cache(place)))
        return wanted

    def _one(self, side: str, number: int, measure: Callable[[], Record]) -> None:
        load, began = os.getloadavg(), time.time()
        record = measure()
        record |= {"side": side, "round": number, "began_unix": began, "load_before": load}
        self.measured.records.append(record)
        self._save(self.measured)
        self._say(f"{self.measured.scenario} round {number + 1} {side}: {_brief(record)}")


def turned(
    sides_in_order: list[tuple[str, Callable[[], Record]]], number: int
) -> list[tuple[str, Callable[[], Record]]]:
    """Return the sides beginning with another one each round, so that none is always first."""
    first = number % len(sides_in_order)
    return sides_in_order[first:] + sides_in_order[:first]


def _brief(record: dict[str, Any]) -> str:
    if "seconds" not in record:
        return f"ready after {record['ready_seconds']:.2f} s"
    text = f"{record['seconds']:.2f} s, {record['cached']} of {record['steps']} cached"
    if "published_after_seconds" in record:
        text += f", published {record['published_after_seconds']:.1f} s after"
    return text
