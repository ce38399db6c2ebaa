"""What is counted over a sidecar's life: plain counters, labelled families, restored objects."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass


@dataclass
class _Object:
    """One snapshot or blob: ``why`` it was fetched, ``local`` when it never had to be."""

    why: str
    used: bool = False


class Counts:
    """Counters by name. docs/operations.md lists them, as metrics."""

    def __init__(self) -> None:
        self.plain: Counter[str] = Counter()
        self.labelled: dict[str, Counter[str]] = {}
        self.demand_waited = 0.0
        self.objects_total = 0
        self.objects_left = 0
        self._objects: dict[str, _Object] = {}

    def add(self, name: str, label: str = "", by: int = 1) -> None:
        """Add to a counter; with a label, to one of a family."""
        if label:
            self.labelled.setdefault(name, Counter())[label] += by
        else:
            self.plain[name] += by

    def family(self, name: str) -> Counter[str]:
        """Return a family's counters by label; empty when nothing was counted."""
        return self.labelled.get(name, Counter())

    def fetched(self, name: str, why: str, size: int) -> None:
        """Count an object whose bytes came from the store."""
        self._objects.setdefault(name, _Object(why)).why = why
        self.add("fetched_bytes", why, size)
        self.add("fetched_objects", why)

    def used(self, name: str, waited: float) -> None:
        """Count an object's first use; ``waited`` seconds, 0 when it was there."""
        self._objects.setdefault(name, _Object("local")).used = True
        if waited:
            self.add("demand_waits")
            self.demand_waited += waited

    def objects(self) -> dict[str, int]:
        """Count the restored generation's objects by what became of them."""
        fetched = [item for item in self._objects.values() if item.why != "local"]
        ahead = [item for item in fetched if item.why != "demand"]
        hits = sum(item.used for item in ahead)
        return {
            "total": self.objects_total,
            "fetched": len(fetched),
            "demand": len(fetched) - len(ahead),
            "prefetch": hits,
            "never_needed": len(ahead) - hits,
            "left": self.objects_left,
        }
