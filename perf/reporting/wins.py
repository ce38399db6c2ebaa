"""Where a peer is quicker than buildsvc, and why."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perf import stats
from perf.comparison.names import HEAD_START, NO_START, OURS, SOME_START, beside, crowd
from perf.reporting.results import Book, Cell, measure_of, waits

REASONS = Path(__file__).with_name("reasons.toml")

_ALIKE = "The intervals overlap: no difference is shown."
#: Changes after which every step runs again: what a warm daemon has is of no use.
_EVERYTHING = ("dockerfile", "base")


@dataclass(frozen=True)
class Win:
    """A peer's median below that of ``ours``, both in seconds, in a cell."""

    cell: str
    peer: str
    ours: str
    seconds: float
    our_seconds: float
    #: Empty while nobody has written it down.
    reason: str


def wins(book: Book, reasons: Mapping[str, Mapping[str, str]] | None = None) -> list[Win]:
    """Return every win of a peer; ``reasons`` are by table and peer, as in ``REASONS``."""
    if reasons is None:
        reasons = read_reasons()
    found = []
    for name, cell in book.cells.items():
        for ours in (NO_START, SOME_START, HEAD_START):
            for peer in cell.peers():
                own = waits(cell.again(beside(peer, ours)), measure_of(ours))
                theirs = waits(cell.again(peer), measure_of(ours))
                if peer.startswith(OURS) or not own or not theirs:
                    continue
                quick = stats.median(list(theirs.values()))
                slow = stats.median(list(own.values()))
                if quick.value < slow.value:
                    tables = [reasons.get(table, {}) for table in _tables(cell)]
                    why = _reason(tables, crowd(peer)[0], crowd(ours)[0])
                    if not why and quick.high >= slow.low:
                        why = _ALIKE
                    own_name = beside(peer, ours)
                    found.append(Win(name, peer, own_name, quick.value, slow.value, why))
    return found


def read_reasons(path: Path = REASONS) -> dict[str, dict[str, str]]:
    """Return the reasons of a file: by table (`_tables`), with a text for a peer or a pair."""
    return tomllib.loads(path.read_text())


def _tables(cell: Cell) -> list[str]:
    """What reasons may be filed under for a cell, the nearest first."""
    own = {
        "change": cell.change,
        "network": cell.network,
        "medium": cell.medium,
        "mounts": "without-mounts",
    }.get(cell.axis)
    alone = cell.axis == "change" and cell.change in _EVERYTHING
    return [*([own] if own else []), *([] if alone else [cell.scenario, "any"])]


def _reason(tables: Sequence[Mapping[str, str]], peer: str, ours: str) -> str:
    """The text of this pair, else of the peer, from the first table that has one."""
    pair = f"{peer} {ours}"
    return next((table[key] for table in tables for key in (pair, peer) if key in table), "")
