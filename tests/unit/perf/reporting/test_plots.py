"""Plots: the same bytes each time, everything in them, and nothing counted twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from perf.comparison.names import COLD, HEAD_START, NO_START, WARM
from perf.reporting.bars import bars
from perf.reporting.curves import curves
from perf.reporting.palette import KINDS, colour
from perf.reporting.plots import draw, drawn_from, plotted
from perf.reporting.results import Book, Record
from perf.reporting.timeline import shown, timeline
from tests.unit.perf import fictitious

pytestmark = pytest.mark.usefixtures("few_resamples")

_FEW = (NO_START, HEAD_START, WARM, "buildkit-registry-zstd", "kaniko")


def _book(peers: Sequence[str] = _FEW) -> Book:
    sizes = {
        f"size {size}": fictitious.cell(
            peers, 2, axis="size", cache_bytes=size, simulated=size == 10**11
        )
        for size in (10**8, 10**11)
    }
    return fictitious.book({"base": fictitious.cell(peers, 2), **sizes})


def _texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    axes = figure.axes[0]
    return [text.get_text() for text in [*axes.get_yticklabels(), *axes.texts]]


def test_the_same_book_gives_the_same_bytes(tmp_path: Path) -> None:
    book = _book([NO_START, HEAD_START])
    one, other = draw(book, tmp_path / "one"), draw(book, tmp_path / "other")
    assert one == plotted(book, tmp_path / "one")
    names = ["head-start", "no-head-start", "timeline-python", "size"]
    assert [file.name for file in one] == [f"{n}.{kind}" for n in names for kind in ("svg", "png")]
    for file, again in zip(one, other, strict=True):
        assert file.read_bytes() == again.read_bytes()
        if file.suffix == ".svg":
            assert drawn_from(file) == book.digest()
        else:
            assert file.read_bytes().startswith(b"\x89PNG")
    assert drawn_from(Path(__file__)) == ""


def test_no_cell_no_plot(tmp_path: Path) -> None:
    assert draw(fictitious.book({}), tmp_path) == []
    empty = fictitious.book({"base": fictitious.cell([], 0)})
    assert [path.name for path in plotted(empty, tmp_path)][::2] == [
        "head-start.svg",
        "no-head-start.svg",
    ]
    assert len(draw(empty, tmp_path)) == 4


def test_bars_of_those_who_are_compared() -> None:
    cells = _book().base()
    alone, whole = _texts(bars(cells, "build_seconds")), _texts(bars(cells, "seconds"))
    assert alone[:4] == [HEAD_START, WARM, "buildkit-registry-zstd", "kaniko"]
    assert whole[:2] == [NO_START, "warm (build alone)"]


def test_a_bar_ends_at_its_median_also_on_a_logarithmic_axis() -> None:
    content = fictitious.cell(_FEW, 3)
    for peer, seconds in {NO_START: 2.0, WARM: 1.0, "kaniko": 50.0}.items():
        content = fictitious.with_records(content, peer, seconds=seconds, build_seconds=seconds)
    figure = bars(fictitious.book({"a": content}).base(), "seconds")
    axes = figure.axes[0]
    ends = [
        bar.get_x() + bar.get_width()
        for container in axes.containers
        if isinstance(container, BarContainer)
        for bar in container
    ]
    assert axes.get_xscale() == "log"
    assert [ends[0], ends[1], ends[-1]] == pytest.approx([2.0, 1.0, 50.0])
    assert axes.get_xlim()[0] < 1.0
    assert axes.get_xlim()[1] > 50.0


def _record(spans: list[list[object]], **changed: object) -> Record:
    content = fictitious.cell([COLD], 1)
    wanted = {"seconds": 10.0, "build_seconds": 9.0, "spans": spans} | changed
    cell = fictitious.with_records(content, COLD, **wanted)
    return fictitious.book({"a": cell}).cells["a"].records[0]


def test_every_moment_is_shown_once() -> None:
    found = shown(
        _record(
            [
                ["daemon", 0.0, 2.0],
                ["importing cache manifest from x", 1.5, 4.0],
                ["[a 2/3] RUN make", 3.0, 6.0],
                ["[b 2/2] COPY x /", 5.0, 7.0],
                ["exporting to image", 8.0, 11.0],
            ]
        )
    )
    assert found == [
        ("starting the pod and its daemon", 0.0, 1.5),
        ("reading the cache", 1.5, 3.0),
        ("steps of the Dockerfile", 3.0, 7.0),
        ("anything else", 7.0, 8.0),
        ("snapshots, export, push", 8.0, 10.0),
    ]


def test_after_a_head_start_the_build_alone_is_shown() -> None:
    found = shown(
        _record(
            [["restoring", 0.0, 3.0], ["RUN x", 20.5, 21.0], ["push", 21.0, 22.0]],
            seconds=None,
            build_seconds=2.0,
        )
    )
    assert [name for name, _, _ in found] == [
        "anything else", "steps of the Dockerfile", "snapshots, export, push"
    ]  # fmt: skip
    assert [end for _, _, end in found] == pytest.approx([0.5, 1.0, 2.0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("[2/4] RUN pip install", "steps of the Dockerfile"),
        ("[build 3/4] COPY a /", "steps of the Dockerfile"),
        ("RUN make", "steps of the Dockerfile"),
        ("[1/4] FROM docker.io/x", "base image, context, unpacking"),
        ("[internal] load build context", "base image, context, unpacking"),
        ("importing cache manifest from r", "reading the cache"),
        ("restoring", "reading the cache"),
        ("look-up", "reading the cache"),
        ("exporting cache to registry", "snapshots, export, push"),
        ("snapshot", "snapshots, export, push"),
        ("unpack", "base image, context, unpacking"),
        ("exporting to image", "snapshots, export, push"),
        ("push", "snapshots, export, push"),
        ("starting-daemon", "starting the pod and its daemon"),
        ("thinking", "anything else"),
    ],
)
def test_what_a_span_is_of(name: str, kind: str) -> None:
    assert shown(_record([[name, 0.0, 10.0]])) == [(kind, 0.0, 10.0)]


def test_the_timeline_shows_the_round_of_the_median_and_cuts_the_longest() -> None:
    content = fictitious.cell([NO_START, WARM, "kaniko"], 3)
    content = fictitious.with_records(content, "kaniko", seconds=99.0)
    for number, record in enumerate(content["records"]):
        if record["peer"] == NO_START:
            content["records"][number] = record | {"seconds": 1.0 + record["round"]}
    cell = fictitious.book({"a": content}).cells["a"]
    labels = _texts(timeline("python", cell))
    assert labels[:3] == [NO_START, "warm (build alone)", "kaniko"]
    assert labels[3] == "2.0 s"
    assert labels[5] == "→ 99 s"


def test_curves_say_what_was_simulated() -> None:
    book = _book()
    cells = [cell for cell in book.cells.values() if cell.axis == "size"]
    figure = curves("size", cells)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "buildsvc-0s (from the pod's start)",
        "buildsvc-20s (the build alone)",
        "warm (the build alone)",
        "buildkit-registry-zstd (from the pod's start)",
        "kaniko (from the pod's start)",
        "hollow: simulated",
    ]
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == len(_FEW)
    assert [len(axes.lines) for axes in figure.axes] == [len(_FEW) * (1 + 2 * 2)] * 3


def test_crowds_stand_at_their_size() -> None:
    names = [f"{peer}-x{pods}" for pods in (16, 1, 4) for peer in (NO_START, "kaniko")]
    contents = [fictitious.cell(names, 2, axis="pods", scenario=name) for name in ("go", "java")]
    book = fictitious.book({"a": contents[0], "b": contents[1]})
    assert [path.stem for path in plotted(book, Path())][::2] == ["pods-go", "pods-java"]
    figure = curves("pods", [book.cells["a"]], "go")
    assert figure.get_suptitle() == "Cost of a build of go by pods at once on one store"
    places = [list(cast("Any", line.get_xdata())) for line in figure.axes[0].lines]
    assert [found for found in places if len(found) == 3] == [[1, 4, 16]] * 2
    # All have a head start there.
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "buildsvc-0s (the build alone)",
        "kaniko (the build alone)",
    ]


def test_colours_tell_kinds_apart() -> None:
    assert len(set(KINDS.values())) == len(KINDS)
    assert colour(NO_START) == colour(HEAD_START) != colour(WARM) == colour("dind-kept")
    assert len({colour(WARM), colour("buildkit-inline"), colour("dind-cold")}) == 3
    assert colour("kaniko") == colour("buildkit-inline")
    assert colour(COLD) == colour("dind-cold") == colour("a peer of tomorrow")
    assert colour("warm-x16") == colour(WARM)
