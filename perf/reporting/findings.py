"""What the comparison found, as Markdown: limits kept or missed, and where a peer is quicker."""

from __future__ import annotations

from collections.abc import Iterable

from perf.reporting.tables import NOTHING, table
from perf.reporting.verdicts import Verdict
from perf.reporting.wins import Win


def verdict_table(found: Iterable[Verdict]) -> list[str]:
    """Each figure beside its limit, then what is missing and what to know."""
    found = list(found)
    rows = [
        (
            verdict.name,
            verdict.found.text(3) if verdict.found else NOTHING,
            str(verdict.found.count) if verdict.found else "0",
            f"{'≥' if verdict.at_least else '≤'} {verdict.limit:g}",
            _word(verdict),
        )
        for verdict in found
    ]
    lines = table(("geometric mean over the scenarios", "found", "rounds", "limit", "kept"), rows)
    lacking: dict[tuple[str, ...], list[str]] = {}
    for verdict in found:
        if verdict.missing:
            lacking.setdefault(verdict.missing, []).append(verdict.name)
    for missing, names in lacking.items():
        whose = "all of them" if len(names) == len(found) > 1 else ", ".join(names)
        lines.append(f"- Not judged yet: {whose}, for want of {'; '.join(missing)}.")
    for verdict in found:
        if verdict.remarks:
            lines.append(f"- {verdict.name}: {'; '.join(verdict.remarks)}.")
    return lines


def _word(verdict: Verdict) -> str:
    if verdict.met is None:
        if verdict.found is None:
            return "not measured"
        word = "so far met" if verdict.keeps else "so far **missed**"
    else:
        word = "met" if verdict.met else "**missed**"
    return word if verdict.sure else f"{word}; the limit lies within the interval"


def win_lines(found: Iterable[Win]) -> list[str]:
    """Where a peer is quicker, and why; where it is so for one reason, in one line."""
    alike: dict[tuple[str, str, str], list[str]] = {}
    for win in found:
        seconds = f"{win.cell} ({win.seconds:.2f} s ÷ {win.our_seconds:.2f} s)"
        alike.setdefault((win.peer, win.ours, win.reason), []).append(seconds)
    lines = []
    for (peer, ours, reason), cells in alike.items():
        why = reason or "Nobody has written down why (`perf/reporting/reasons.toml`)."
        lines.append(f"- {peer} ÷ {ours}: {', '.join(cells)}. {why}")
    return lines or ["No peer was quicker anywhere."]
