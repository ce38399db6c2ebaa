"""Bars: what every peer waits for, scenario by scenario."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from perf import stats
from perf.comparison.names import OURS, in_order
from perf.reporting.palette import INK, KINDS, colour, kind, name_rows
from perf.reporting.results import Cell, Measure, comparable, titled

_COLUMNS = 3
#: Where the longest takes this many times the shortest, the short ones are lost on a linear axis.
_LOGARITHMIC = 12
_TITLES = {
    "build_seconds": "One changed line after a head start: seconds of the build",
    "seconds": "One changed line without a head start: seconds from the pod's start",
}


def bars(cells: Mapping[str, Cell], measure: Measure) -> Figure:
    """Return a panel of each scenario, peers one below the other."""
    found = {
        scenario: {peer: stats.median(values) for peer, values in comparable(cell, measure).items()}
        for scenario, cell in cells.items()
    }
    peers = in_order(peer for values in found.values() for peer in values)
    places = {peer: place for place, peer in enumerate(peers)}
    rows = math.ceil(len(found) / _COLUMNS)
    columns = min(len(found), _COLUMNS)
    figure = Figure(figsize=(max(9.0, 1.6 + 3.7 * columns), 1.5 + rows * (0.6 + 0.21 * len(peers))))
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten().tolist()
    for panel, (scenario, values) in zip(panels, found.items(), strict=False):
        if values:
            _panel(panel, values, places)
        panel.set_title(scenario)
    for panel in panels[len(found) :]:
        panel.set_axis_off()
    for panel in panels[::columns]:
        name_rows(panel, peers, [titled(peer, measure) for peer in peers])
    figure.suptitle(_TITLES[measure], x=0.01, ha="left")
    kinds = [name for name in KINDS if name in {kind(peer) for peer in peers}]
    figure.legend(
        handles=[Patch(color=KINDS[name], label=name) for name in kinds],
        loc="outside lower left", ncols=len(kinds),
    )  # fmt: skip
    return figure


def _panel(panel: Axes, found: Mapping[str, stats.Estimate], places: Mapping[str, int]) -> None:
    values = [estimate.value for estimate in found.values()]
    longest = max(estimate.high for estimate in found.values())
    if longest > _LOGARITHMIC * min(values):
        panel.set_xscale("log")
        left = min(estimate.low for estimate in found.values()) / 2
        panel.set_xlim(left, longest * (longest / left) ** 0.28)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_locator(NullLocator())
    else:
        left = 0.0
        panel.set_xlim(0, longest * 1.28)
    for peer, estimate in found.items():
        place = places[peer]
        panel.barh(place, estimate.value - left, left=left, height=0.72, color=colour(peer))
        panel.errorbar(
            [estimate.value], [place], color=INK, linewidth=1.2, capsize=2.5,
            xerr=[[estimate.value - estimate.low], [estimate.high - estimate.value]],
        )  # fmt: skip
        panel.annotate(
            f"{estimate.value:.2f}" if estimate.value < 10 else f"{estimate.value:.1f}",
            (estimate.high, place), (4, 0), textcoords="offset points", va="center", fontsize=8,
            fontweight="bold" if peer.startswith(OURS) else "normal",
        )  # fmt: skip
    panel.set_xlabel("seconds, log scale" if left else "seconds")
