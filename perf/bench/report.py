"""Tables of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from perf import stats
from perf.bench.limits import Check, checks
from perf.bench.rounds import Measured

_SIDES = {
    "cold-stock": "cold: stock buildkitd",
    "cold-pod": "cold: pod, packing under way",
    "warm": "one line: daemon that stayed up",
    "pod-head-start": "one line: pod, head start",
    "pod-immediate": "one line: pod, no head start",
    "registry-cache": "one line: fresh stock, registry cache",
    "registry-cache-export": "one line: warm, exporting that cache",
}


def print_report(content: Mapping[str, Any]) -> int:
    """Print the tables of a bench's content; return 1 when a limit is missed, else 0."""
    console = Console(width=max(Console().width, 140))
    missed = 0
    for name, records in content["scenarios"].items():
        measured = Measured(name, list(records))
        console.print(times(measured))
        found = checks(measured)
        console.print(verdicts(name, found))
        missed += sum(check.met is False for check in found)
    if missed:
        console.print(f"{missed} figures miss their limits")
    return 1 if missed else 0


def times(measured: Measured) -> Table:
    """The seconds of each side."""
    table = Table(title=f"{measured.scenario}: seconds, median (95 % interval)")
    table.add_column("side", no_wrap=True)
    for column in (
        "seconds",
        "rounds",
        "CPU s",
        "cached",
        "MB on demand",
        "MB ahead",
        "MB in vain",
    ):
        table.add_column(column, justify="right")
    for side, text in _SIDES.items():
        values = measured.values(side, "seconds")
        if values:
            cells = [_middle(measured, side, name) for name in ("cpu_seconds", "cached")]
            fetched = ("demand_bytes", "prefetched_bytes", "never_needed_bytes")
            cells.extend(_middle(measured, side, name, 1e6) for name in fetched)
            table.add_row(text, stats.median(values).text(), str(len(values)), *cells)
    return table


def verdicts(name: str, found: list[Check]) -> Table:
    """Each figure beside its limit."""
    table = Table(title=f"{name}: limits")
    for column in ("figure", "found", "limit", ""):
        table.add_column(column, no_wrap=True)
    words = {True: "met", False: "MISSED", None: "-"}
    for check in found:
        table.add_row(check.name, check.found, check.limit, words[check.met])
    return table


def _middle(measured: Measured, side: str, name: str, unit: float = 1.0) -> str:
    values = measured.values(side, name)
    return f"{stats.median(values).value / unit:.1f}" if values else ""
