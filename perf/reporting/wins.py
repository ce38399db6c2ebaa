"""Where a peer is quicker than buildsvc, and why."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perf.comparison.names import HEAD_START, NO_START, OURS, SOME_START, beside, crowd
from perf.reporting.results import Book, measure_of, waits

REASONS = Path(__file__).with_name("reasons.toml")


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
    """Return every win of a peer; ``reasons`` are by scenario and peer, as in ``REASONS``."""
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
                seconds = statistics.median(theirs.values())
                our_seconds = statistics.median(own.values())
                if seconds < our_seconds:
                    why = _reason(reasons, cell.scenario, crowd(peer)[0], crowd(ours)[0])
                    own_name = beside(peer, ours)
                    found.append(Win(name, peer, own_name, seconds, our_seconds, why))
    return found


def read_reasons(path: Path = REASONS) -> dict[str, dict[str, str]]:
    """Return the reasons of a file: by scenario, or ``any``, with a text for a peer or a pair."""
    return tomllib.loads(path.read_text())


def _reason(reasons: Mapping[str, Mapping[str, str]], scenario: str, peer: str, ours: str) -> str:
    """Of this pair in this scenario, else of the peer in it, else in any."""
    pair = f"{peer} {ours}"
    tables = [reasons.get(name, {}) for name in (scenario, "any")]
    return next((table[key] for table in tables for key in (pair, peer) if key in table), "")
