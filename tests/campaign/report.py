"""A campaign's file as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.campaign.book import Entry
from tests.campaign.points import Point, total

#: Characters of a miss or an error in the summary; the file has all of it.
_SHOWN = 600


def markdown(content: Mapping[str, Any], points: Sequence[Point]) -> str:
    """Return the summary of everything that is in a book's content."""
    lines = [
        "# Campaign",
        "",
        f"Revision {content['revision']}, seed `{content['seed']}`.",
        "",
        _machine(content["machine"]),
        "",
        "| point | steps | parts | minutes | found |",
        "|---|---|---|---|---|",
    ]
    chosen = [point for point in points if str(point.number) in content["points"]]
    lines += [_row(point, content["points"][str(point.number)]) for point in chosen]
    for point in chosen:
        lines += _details(point, content["points"][str(point.number)])
    return "\n".join(lines) + "\n"


def _machine(found: Mapping[str, Any]) -> str:
    memory = found["memory_bytes"] / 2**30
    return (
        f"{found['cpus']} processors ({found['cpu']}), {memory:.0f} GiB of memory,"
        f" kernel {found['kernel']}, Python {found['python']}."
    )


def _row(point: Point, entry: Mapping[str, Any]) -> str:
    parts: Mapping[str, Entry] = entry["parts"]
    wanted = len(point.parts(entry["steps"]))
    tried = [part for part in parts.values() if "error" not in part]
    misses = sum(len(part["misses"]) for part in tried)
    if misses:
        verdict = f"**{misses} missed**"
    elif len(tried) < wanted:
        verdict = "not finished"
    else:
        verdict = "met"
    minutes = sum(part["seconds"] for part in parts.values()) / 60
    steps = f"{entry['steps']} of {point.full} {point.unit}"
    return (
        f"| {point.number} {point.name} | {steps} | {len(tried)} of {wanted} | {minutes:.1f}"
        f" | {verdict} |"
    )


def _details(point: Point, entry: Mapping[str, Any]) -> list[str]:
    parts: Mapping[str, Entry] = entry["parts"]
    lines = ["", f"## {point.number} {point.name}", "", point.claim, ""]
    found = total([part["figures"] for part in parts.values() if "figures" in part])
    lines += [f"- {name.replace('_', ' ')}: {_text(value)}" for name, value in found.items()]
    for name, part in parts.items():
        lines += [f"- **missed** in {name}: {_short(miss)}" for miss in part.get("misses", [])]
        if "error" in part:
            lines.append(f"- {name} could not be tried: {_short(part['error'])}")
    return lines


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= _SHOWN else f"… {one_line[-_SHOWN:]}"
