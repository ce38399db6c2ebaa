"""Curves: what a build costs as the cache, or the number of pods at once, grows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from perf import stats
from perf.comparison.names import OURS, WARM, crowd, in_order
from perf.reporting.palette import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, SKY, VERMILION, YELLOW
from perf.reporting.results import Cell, Measure, Record, figures, measure_of

_OURS = ((VERMILION, "o"), (ORANGE, "s"), (YELLOW, "h"))
_OTHERS = ((BLUE, "D"), (SKY, "^"), (GREEN, "v"), (PURPLE, "P"), (GREY, "X"))


@dataclass(frozen=True)
class Subject:
    """What grows, its unit, where a peer of a cell stands, and what the panels show."""

    title: str
    unit: str
    place: Callable[[Cell, str], float]
    panels: tuple[str, str, str]
    #: Whether it is the build alone that everybody waits for: all have a head start.
    alone: bool


SUBJECTS: Mapping[str, Subject] = {
    "size": Subject(
        "size of the cache",
        "GB, unpacked",
        lambda cell, _: cell.at_rest() / 1e9,
        ("seconds waited", "processor seconds of the pod", "MB received by the pod"),
        alone=False,
    ),
    "pods": Subject(
        "pods at once on one store",
        "pods",
        lambda _, peer: crowd(peer)[1],
        ("seconds of the slowest pod", "processor seconds of all pods", "MB received by all pods"),
        alone=True,
    ),
}

Line = list[tuple[float, stats.Estimate, bool]]
"""Points from left to right: place, estimate, whether it was simulated."""


def curves(axis: str, cells: Sequence[Cell], scenario: str = "") -> Figure:
    """Return panels of seconds, processor seconds and bytes along the axis ``size`` or ``pods``.

    ``scenario`` is named where there are figures of several.
    """
    subject = SUBJECTS[axis]
    figure = Figure(figsize=(12.5, 4.6))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    styles: dict[str, tuple[str, str]] = {}
    panels = figure.subplots(1, 3).tolist()
    shown: tuple[Callable[[Record], float | None], ...] = (
        lambda record: record.waited(_measure(subject, record.peer)),
        lambda record: record.cpu_seconds,
        lambda record: record.received_bytes / 1e6,
    )
    for panel, title, figure_of in zip(panels, subject.panels, shown, strict=True):
        lines = _lines(cells, subject, figure_of)
        for name, line in lines.items():
            _draw(panel, line, styles.setdefault(name, _style(name, styles)))
        places = sorted({x for line in lines.values() for x, _, _ in line})
        panel.set_title(title)
        panel.set_xscale("log", base=10 if axis == "size" else 2)
        panel.set_xticks(places, [f"{value:.3g}" for value in places])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(subject.unit)
        panel.set_ylim(bottom=0)
        panel.grid(visible=True, axis="y")
    of = f" of {scenario}" if scenario else ""
    figure.suptitle(f"Cost of a build{of} by {subject.title}", x=0.01, ha="left")
    figure.legend(handles=_handles(styles, cells, subject), loc="outside lower left", ncols=4)
    return figure


def _measure(subject: Subject, peer: str) -> Measure:
    if subject.alone:
        return "build_seconds"
    return measure_of(peer) if peer.startswith(OURS) else "seconds"


def _lines(
    cells: Sequence[Cell], subject: Subject, figure: Callable[[Record], float | None]
) -> dict[str, Line]:
    found: dict[str, Line] = {}
    for peer in in_order(peer for cell in cells for peer in cell.peers()):
        for cell in cells:
            if values := figures(cell.again(peer), figure):
                point = (subject.place(cell, peer), stats.median(values), cell.simulated)
                found.setdefault(crowd(peer)[0], []).append(point)
    return {peer: sorted(line, key=lambda point: point[0]) for peer, line in found.items()}


def _style(peer: str, styles: Collection[str]) -> tuple[str, str]:
    """The next colour and mark that a peer may have, beside those that have one."""
    ours = peer.startswith(OURS)
    free = _OURS if ours else _OTHERS
    taken = sum(other.startswith(OURS) is ours for other in styles)
    return free[taken % len(free)]


def _draw(panel: Axes, line: Line, style: tuple[str, str]) -> None:
    colour, mark = style
    panel.plot(
        [x for x, _, _ in line], [estimate.value for _, estimate, _ in line],
        color=colour, linewidth=1.6,
    )  # fmt: skip
    for x, estimate, simulated in line:
        panel.plot([x, x], [estimate.low, estimate.high], color=colour, linewidth=1.2)
        filling = "white" if simulated else colour
        panel.plot([x], [estimate.value], mark, color=colour, markerfacecolor=filling, markersize=7)


def _handles(
    styles: Mapping[str, tuple[str, str]], cells: Sequence[Cell], subject: Subject
) -> list[Line2D]:
    handles = [
        Line2D([], [], color=colour, marker=mark, label=_label(name, subject))
        for name, (colour, mark) in styles.items()
    ]
    if any(cell.simulated for cell in cells):
        handles.append(
            Line2D([], [], color=INK, marker="o", markerfacecolor="white", linewidth=0,
                   label="hollow: simulated")
        )  # fmt: skip
    return handles


def _label(peer: str, subject: Subject) -> str:
    alone = peer == WARM or _measure(subject, peer) == "build_seconds"
    return f"{peer} (the build alone)" if alone else f"{peer} (from the pod's start)"
