"""Writes what is generated from the committed results: a section of README.md, the report, plots.

    python -m perf.reporting.readme [--check]

With ``--check`` nothing is written, and the exit code is 1 where something differs. While there
are no committed results, nothing is generated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from perf.host import REPOSITORY, PerfError
from perf.reporting import findings, tables
from perf.reporting.floor import floor_lines
from perf.reporting.markdown import about, markdown
from perf.reporting.plots import draw, drawn_from, plotted
from perf.reporting.results import Book, read
from perf.reporting.verdicts import verdicts
from perf.reporting.wins import wins

RESULTS = Path("perf", "results", "base.json")
BEGIN = "<!-- results: written by `python -m perf.reporting.readme` from perf/results/base.json -->"
END = "<!-- end of results -->"
_AXES = {
    "change": "other changes",
    "network": "other networks",
    "medium": "the disk",
    "mounts": "builds without cache mounts",
    "compression": "caches as gzip and zstd",
    "size": "caches of other sizes",
    "pods": "many pods at once",
}


def section(book: Book) -> str:
    """Return what stands between the markers."""
    directory = RESULTS.parent.as_posix()
    lines = [
        "### Beside other builders",
        "",
        *about(book),
        "",
        f"[The report]({directory}/{RESULTS.stem}.md) has every round{_others(book)}; timelines",
        f"beside it show [where the seconds go]({directory}). [What each peer",
        "is](perf/README.md#the-comparison), how it is set up, and what favours buildsvc. Kaniko's",
        "living fork could not be had; Kaniko and Buildah make ten images one after the other.",
        *findings.verdict_table(verdicts(book)),
        "",
        "With a head start: the build alone.",
        *tables.waited_table(book, "build_seconds"),
        f"![Seconds of the build alone, bars with intervals]({directory}/head-start.svg)",
        "",
        "Without: from the start of the pod's first process to the pushed image.",
        *tables.waited_table(book, "seconds"),
        f"![Seconds from the start of the pod, bars with intervals]({directory}/no-head-start.svg)",
        "",
        *floor_lines(book),
        "Where a peer is quicker:",
        "",
        *findings.win_lines(wins(book)),
    ]
    return "\n".join(lines).strip() + "\n"


def _others(book: Book) -> str:
    """What the report has beside the base."""
    present = {cell.axis for cell in book.cells.values()}
    return "".join(f", {text}" for axis, text in _AXES.items() if axis in present)


def texts(root: Path) -> dict[Path, str]:
    """Return the texts that are to be in a tree, by file. Raises PerfError."""
    readme = root / "README.md"
    text = readme.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise PerfError(f"{readme} lacks the markers {BEGIN!r} and {END!r}, in this order")
    book = _book(root)
    if book is None:
        return {readme: f"{head}{BEGIN}\n{END}{tail}"}
    between = f"\n\n{section(book)}\n"
    report = (root / RESULTS).with_suffix(".md")
    return {readme: f"{head}{BEGIN}{between}{END}{tail}", report: markdown(book)}


def differing(root: Path) -> list[Path]:
    """Return the files that are not as they would be written. Raises PerfError.

    Plots are told by the book that they say they show, for renderers may differ in a digit.
    """
    found = [
        path for path, text in texts(root).items() if not path.exists() or path.read_text() != text
    ]
    book = _book(root)
    if book is not None:
        plots = plotted(book, (root / RESULTS).parent)
        found += [
            path
            for path in plots
            if not path.exists() or (path.suffix == ".svg" and drawn_from(path) != book.digest())
        ]
    return found


def write(root: Path) -> None:
    """Write texts and plots. Raises PerfError."""
    for path, text in texts(root).items():
        path.write_text(text)
    book = _book(root)
    if book is not None:
        draw(book, (root / RESULTS).parent)


def _book(root: Path) -> Book | None:
    path = root / RESULTS
    return read(path) if path.exists() else None


def main(argv: Sequence[str], root: Path = REPOSITORY) -> int:
    """The program; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perf.reporting.readme", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--check", action="store_true", help="only say what differs")
    options = parser.parse_args(argv)
    try:
        if not options.check:
            write(root)
            return 0
        found = differing(root)
    except PerfError as error:
        print(f"perf.reporting.readme: error: {error}", file=sys.stderr)
        return 2
    for path in found:
        print(
            f"{path} differs from {RESULTS}: run `python -m perf.reporting.readme`", file=sys.stderr
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
