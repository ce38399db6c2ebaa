"""A timeline: where the seconds go in each peer, in the round that took the median."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from perf.comparison.names import OURS
from perf.reporting.palette import BLUE, GREEN, LIGHT, ORANGE, PURPLE, SKY, name_rows
from perf.reporting.results import Cell, Record, measure_of

#: What spans are of, by the first pattern that their name has. Where several go on at one moment,
#: the one that comes first here is shown.
KINDS: tuple[tuple[str, str, str], ...] = (
    ("steps of the Dockerfile", GREEN, r"\d\] (?!FROM)|^(RUN|COPY|ADD|WORKDIR)\b"),
    ("reading the cache", ORANGE, r"^(?!.*export).*(cache|restor|import|look-up)"),
    ("base image, context, unpacking", SKY, r"^\[internal\]|FROM|context|manifests|unpack"),
    ("snapshots, export, push", BLUE, r"export|push|snapshot|keep"),
    ("starting the pod and its daemon", PURPLE, r"daemon|start"),
)
_OTHER = ("anything else", LIGHT)
#: The axis ends at this times the median of all peers, unless the longest is hardly longer.
_CUT = 1.6
_LONGER = 1.2


def timeline(scenario: str, cell: Cell) -> Figure:
    """Return a row for each peer; 0 is the pod's start, or the build's where that alone counts."""
    rows = [(peer, _median_round(cell.again(peer))) for peer in cell.peers()]
    totals = [_total(record) for _, record in rows]
    limit = _limit(totals)
    figure = Figure(figsize=(11, 1.7 + 0.32 * len(rows)))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    panel = figure.subplots()
    for place, (peer, record) in enumerate(rows):
        for name, begin, end in shown(record):
            panel.barh(place, end - begin, left=begin, height=0.7, color=_colour(name))
        total = _total(record)
        panel.annotate(
            f"{total:.1f} s" if total <= limit else f"→ {total:.0f} s",
            (min(total, limit), place), (5, 0), textcoords="offset points", va="center",
            fontsize=8, fontweight="bold" if peer.startswith(OURS) else "normal",
        )  # fmt: skip
    name_rows(panel, [peer for peer, _ in rows], [_label(record) for _, record in rows])
    panel.set_xlim(0, limit)
    cut = max(totals) > limit
    panel.set_xlabel("seconds; an arrow says that a row goes on" if cut else "seconds")
    figure.suptitle(f"Where the seconds of a changed line go: {scenario}", x=0.01, ha="left")
    handles = [Patch(color=colour, label=name) for name, colour, _ in KINDS]
    handles.append(Patch(color=_OTHER[1], label=_OTHER[0]))
    figure.legend(
        handles=handles, loc="outside lower left", ncols=3, alignment="left",
        title="At each moment, the first of these that goes on:",
    )  # fmt: skip
    return figure


def _limit(totals: Sequence[float]) -> float:
    """Where the axis ends: the few peers that take much longer would make the others unreadable."""
    limit = _CUT * statistics.median(totals)
    return limit if max(totals) > _LONGER * limit else max(totals)


def shown(record: Record) -> list[tuple[str, float, float]]:
    """Return without gaps what a round did: the kind's name, its begin and its end in seconds."""
    total = _total(record)
    offset = _offset(record)
    spans = [
        (_kind(name), max(begin - offset, 0.0), min(end - offset, total))
        for name, begin, end in record.spans
    ]
    edges = sorted({0.0, total, *(edge for _, b, e in spans if b < e for edge in (b, e))})
    order = [name for name, _, _ in KINDS]
    found: list[tuple[str, float, float]] = []
    for begin, end in pairwise(edges):
        kinds = {kind for kind, b, e in spans if b <= begin and end <= e}
        name = next((kind for kind in order if kind in kinds), _OTHER[0])
        joined = found.pop()[1] if found and found[-1][0] == name else begin
        found.append((name, joined, end))
    return found


def _median_round(records: Sequence[Record]) -> Record:
    return sorted(records, key=_total)[(len(records) - 1) // 2]


def _alone(record: Record) -> bool:
    """Whether it is the build that counts, and not the pod's start."""
    ours = record.peer.startswith(OURS) and measure_of(record.peer) == "build_seconds"
    return ours or record.seconds is None


def _total(record: Record) -> float:
    return record.build_seconds if _alone(record) else record.seconds or record.build_seconds


def _offset(record: Record) -> float:
    if not _alone(record):
        return 0.0
    return max((end for _, _, end in record.spans), default=0.0) - record.build_seconds


def _kind(name: str) -> str:
    for kind, _, pattern in KINDS:
        if re.search(pattern, name, re.IGNORECASE):
            return kind
    return _OTHER[0]


def _colour(name: str) -> str:
    return next((colour for kind, colour, _ in KINDS if kind == name), _OTHER[1])


def _label(record: Record) -> str:
    return f"{record.peer} (build alone)" if _alone(record) else record.peer
