"""What the comparison must show, and whether it does."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from perf import stats
from perf.comparison.names import (
    COLD,
    DANCE,
    HEAD_START,
    NO_START,
    OURS,
    REMOTE,
    SCENARIOS,
    WARM,
    in_order,
    ordered,
    taking_part,
)
from perf.reporting.results import Book, Cell, Measure, compared, measure_of, waits

#: A pod may take this times the warm daemon.
WARM_HEAD_START, WARM_NO_START = 1.1, 1.8
#: A peer must take at least this times the pod.
REMOTE_HEAD_START, REMOTE_NO_START = 3.0, 2.0
FRESH = 5.0
#: The first build may end this times as late as stock BuildKit's without a cache.
FIRST_BUILD = 1.03

#: Fresh pods of other builders.
_FRESH = ("kaniko", "dind-cold", "dind-cache-from")
#: Remote caches as builders have them, and the best of these and of cache mounts carried beside.
_BY_THEMSELVES = tuple(peer for peer in REMOTE if peer != DANCE)
_CARRIED = "best remote cache, or cache-dance"


@dataclass(frozen=True)
class Verdict:
    """One figure, the geometric mean over the scenarios, beside its limit.

    ``missing`` says what should have been measured; ``found`` is then of what was, or None, and
    nothing is judged. ``remarks`` say what one has to know of it.
    """

    name: str
    found: stats.Estimate | None
    limit: float
    at_least: bool
    missing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; None when that was not measured."""
        return None if self.found is None or self.missing else self.keeps

    @property
    def keeps(self) -> bool:
        """Whether what was found keeps the limit, of whichever scenarios it is."""
        return self.found is not None and self._keeps(self.found.value)

    @property
    def sure(self) -> bool:
        """Whether both ends of the interval say the same."""
        return self.found is not None and self._keeps(self.found.low) == self._keeps(
            self.found.high
        )

    def _keeps(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class _Found:
    """Of one scenario: what to compare, or why that cannot be."""

    sides: stats.Sides | None
    missing: str = ""
    remark: str = ""


def verdicts(book: Book) -> list[Verdict]:
    """Return every limit with what was found."""
    found = [
        _most(book, "20 s head start ÷ warm daemon", WARM_HEAD_START, _over(WARM, HEAD_START)),
        _most(book, "no head start ÷ warm daemon", WARM_NO_START, _over(WARM, NO_START)),
    ]
    # The second pair of rows is stricter: no builder carries its cache mounts by itself.
    for what, peers in (("best remote cache", _BY_THEMSELVES), (_CARRIED, REMOTE)):
        found += [
            _least(book, f"{what} ÷ 20 s head start", REMOTE_HEAD_START, _best(HEAD_START, peers)),
            _least(book, f"{what} ÷ no head start", REMOTE_NO_START, _best(NO_START, peers)),
        ]
    for peer in _FRESH:
        found += [
            _least(book, f"{peer} ÷ 20 s head start", FRESH, _under(peer, HEAD_START)),
            _least(book, f"{peer} ÷ no head start", FRESH, _under(peer, NO_START)),
        ]
    return [*found, _most(book, "first build's end ÷ buildkit-cold", FIRST_BUILD, _first)]


def best_remote(cell: Cell, measure: Measure, peers: Sequence[str]) -> str | None:
    """Return the remote cache with the smallest median, of those that were measured."""
    found = {
        peer: statistics.median(values.values())
        for peer in peers
        if (values := waits(cell.again(peer), measure))
    }
    return min(found, key=lambda peer: found[peer]) if found else None


def _most(book: Book, name: str, limit: float, of: Callable[[Cell], _Found]) -> Verdict:
    return _verdict(book, name, limit, of, at_least=False)


def _least(book: Book, name: str, limit: float, of: Callable[[Cell], _Found]) -> Verdict:
    return _verdict(book, name, limit, of, at_least=True)


def _verdict(
    book: Book, name: str, limit: float, of: Callable[[Cell], _Found], *, at_least: bool
) -> Verdict:
    cells = book.base()
    several: list[stats.Sides] = []
    missing, remarks = [], []
    for scenario in ordered([*SCENARIOS, *cells], SCENARIOS):
        found = of(cells[scenario]) if scenario in cells else _Found(None, "not measured")
        if found.sides is not None:
            several.append(found.sides)
        if found.missing:
            missing.append(f"{scenario}: {found.missing}")
        if found.remark:
            remarks.append(f"{scenario}: {found.remark}")
    mean = stats.geometric_mean(several) if several else None
    return Verdict(name, mean, limit, at_least, tuple(missing), tuple(remarks))


def _over(peer: str, ours: str) -> Callable[[Cell], _Found]:
    return lambda cell: _pair(cell, ours, peer, measure_of(ours))


def _under(peer: str, ours: str) -> Callable[[Cell], _Found]:
    return lambda cell: _pair(cell, peer, ours, measure_of(ours))


def _pair(cell: Cell, over: str, under: str, measure: Measure, remark: str = "") -> _Found:
    found = {peer: waits(cell.again(peer), measure) for peer in (over, under)}
    lacking = [peer for peer, values in found.items() if not values]
    if lacking:
        return _Found(None, f"no {' and no '.join(lacking)}")
    return _Found(compared(found[over], found[under]), remark=remark)


def _best(ours: str, peers: Sequence[str]) -> Callable[[Cell], _Found]:
    measure = measure_of(ours)

    def of(cell: Cell) -> _Found:
        best = best_remote(cell, measure, peers)
        if best is None:
            return _Found(None, "no remote cache")
        wanted = set(taking_part(cell.scenario)) & set(peers)
        absent = [peer for peer in in_order(wanted) if not waits(cell.again(peer), measure)]
        found = _pair(cell, best, ours, measure, best)
        if not absent or found.missing:
            return found
        # The best one may be among them.
        return replace(found, missing=f"no {' and no '.join(absent)}")

    return of


def _first(cell: Cell) -> _Found:
    ours, cold = (waits(cell.first(peer), "seconds") for peer in (OURS, COLD))
    lacking = [name for name, found in ((OURS, ours), (COLD, cold)) if not found]
    if lacking:
        return _Found(None, f"no first build of {' and of '.join(lacking)}")
    return _Found(compared(ours, cold))
