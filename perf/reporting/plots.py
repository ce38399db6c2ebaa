"""A book as plots: SVG and PNG, the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from perf.reporting.bars import bars
from perf.reporting.curves import SUBJECTS, curves
from perf.reporting.results import Book
from perf.reporting.timeline import timeline

_STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "savefig.dpi": 140,
    # Text as outlines: the reader's machine may lack the font. Ids that do not differ each time.
    "svg.fonttype": "path",
    "svg.hashsalt": "buildsvc",
}


def draw(book: Book, directory: Path) -> list[Path]:
    """Write every plot of a book into a directory and return the files. Raises PerfError."""
    directory.mkdir(parents=True, exist_ok=True)
    digest = book.digest()
    files = []
    with mpl.rc_context():
        # Whatever this machine's own matplotlibrc says.
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        for name, figure in _figures(book):
            files += _save(figure(), directory / name, digest)
    return files


def plotted(book: Book, directory: Path) -> list[Path]:
    """Return the files that `draw` writes."""
    return [file for name, _ in _figures(book) for file in _files(directory / name)]


def drawn_from(file: Path) -> str:
    """Return the digest of the book that an SVG of `draw` shows; empty if it is none."""
    _, _, rest = file.read_text().partition("<dc:source>")
    return rest.partition("</dc:source>")[0]


def _figures(book: Book) -> Iterator[tuple[str, Callable[[], Figure]]]:
    cells = book.base()
    if cells:
        yield "head-start", partial(bars, cells, "build_seconds")
        yield "no-head-start", partial(bars, cells, "seconds")
    for scenario, cell in cells.items():
        if cell.peers():
            yield f"timeline-{scenario}", partial(timeline, scenario, cell)
    for axis in SUBJECTS:
        found = [cell for cell in book.cells.values() if cell.axis == axis and cell.peers()]
        # Crowds are compared within a scenario; a cache of another size is another scenario.
        for name in dict.fromkeys(cell.scenario if axis == "pods" else "" for cell in found):
            own = [cell for cell in found if name in {"", cell.scenario}]
            yield f"{axis}-{name}".strip("-"), partial(curves, axis, own, name)


def _files(base: Path) -> list[Path]:
    return [base.with_name(f"{base.name}.{kind}") for kind in ("svg", "png")]


def _save(figure: Figure, base: Path, digest: str) -> list[Path]:
    svg, png = _files(base)
    # Once, and the same for both.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.savefig(svg, metadata={"Date": None, "Creator": None, "Source": digest})
    figure.savefig(png, metadata={"Software": None, "Source": digest})
    return [svg, png]
