"""Tables show every peer and every round, and what was not measured as such."""

from __future__ import annotations

import pytest

from perf.comparison.names import COLD, FIRST, HEAD_START, NO_START, SCENARIOS, WARM
from perf.reporting import tables
from perf.reporting.findings import verdict_table
from perf.reporting.results import Cell
from perf.reporting.verdicts import Verdict
from perf.stats import Estimate
from tests.unit.perf import fictitious

pytestmark = pytest.mark.usefixtures("few_resamples")


def _cell(content: fictitious.Content) -> Cell:
    return fictitious.book({"a": content}).cells["a"]


def _rows(lines: list[str]) -> list[list[str]]:
    """The cells of a table's rows, the head first."""
    found = [line for line in lines if line.startswith("|") and not line.startswith("|---")]
    return [[text.strip() for text in line.strip("|").split("|")] for line in found]


def test_a_row_for_each_peer() -> None:
    content = fictitious.cell([NO_START, HEAD_START, WARM, "kaniko"], rounds=3)
    content = fictitious.with_records(content, NO_START, seconds=4.0, build_seconds=3.0)
    content = fictitious.with_records(content, HEAD_START, seconds=None, build_seconds=2.0)
    content = fictitious.with_records(content, WARM, seconds=None, build_seconds=1.5)
    content = fictitious.with_records(
        content, "kaniko", seconds=10.0, build_seconds=9.0, steps=None, cached=None,
        cpu_seconds=3.14, memory_bytes=1_234_000_000, received_bytes=5_600_000, sent_bytes=0,
    )  # fmt: skip
    head, ours, with_start, warm, kaniko = _rows(tables.peer_table([("", _cell(content))]))
    assert ours[:4] == ["**buildsvc-0s**", "3", "4.00 (4.00 to 4.00)", "3.00 (3.00 to 3.00)"]
    assert dict(zip(head, with_start, strict=True))["from the pod's start, s"] == "-"
    # A peer that is quicker stands out.
    assert warm[-2:] == ["**0.38**", "**0.75**"]
    assert kaniko[4:] == ["-", "3.1", "1234", "5.6", "0.0", "2.50", "4.50"]
    assert ours[-2:] == ["1.00", "-"]


def test_crowds_are_compared_with_crowds_of_their_size() -> None:
    content = fictitious.cell(["buildsvc-0s-x1", "buildsvc-0s-x4", "kaniko-x4"], axis="pods")
    content = fictitious.with_records(content, "buildsvc-0s-x4", seconds=2.0)
    content = fictitious.with_records(content, "kaniko-x4", seconds=8.0)
    rows = _rows(tables.peer_table([("", _cell(content))]))
    assert [row[-2:] for row in rows[1:]] == [["1.00", "-"], ["1.00", "-"], ["4.00", "-"]]


def test_rows_are_labelled_by_their_cell() -> None:
    cell = _cell(fictitious.cell([WARM], rounds=1))
    rows = _rows(tables.peer_table([("first", cell), ("second", cell)], "network"))
    assert [row[:3] for row in rows] == [
        ["network", "peer", "rounds"],
        ["first", "warm", "1"],
        ["second", "warm", "1"],
    ]


def test_one_round_has_no_interval() -> None:
    assert tables.estimate([3.0]) == "3.00"
    assert tables.estimate([3.0, 3.0]) == "3.00 (3.00 to 3.00)"
    assert tables.estimate([]) == "-"


def test_first_builds_and_what_writing_the_cache_costs() -> None:
    content = fictitious.cell([FIRST, COLD, "buildkit-inline", WARM], rounds=2)
    content = fictitious.with_records(
        content, FIRST, seconds=11.0, published_seconds=0.5, stored_bytes=20_000_000
    )
    content = fictitious.with_records(content, COLD, seconds=10.0)
    _, *rows = _rows(tables.first_table([("python", _cell(content))]))
    ours, cold, inline = rows
    assert ours[:6] == ["python", "**buildsvc-first**", "2", "11.00 (11.00 to 11.00)", "1.100",
                        "11.50 (11.50 to 11.50)"]  # fmt: skip
    assert ours[-1] == "20.0"
    # It writes no cache.
    assert (cold[1], cold[4:6], cold[-1]) == (COLD, ["1.000", "-"], "-")
    assert inline[1:3] == ["buildkit-inline", "1"]


def test_scenarios_side_by_side() -> None:
    cells = {name: fictitious.cell(scenario=name, rounds=2) for name in ("python", "go")}
    cells["go"] = fictitious.without(cells["go"], WARM)
    head, ours, warm, *_ = _rows(tables.waited_table(fictitious.book(cells), "seconds"))
    assert head[1:] == list(SCENARIOS)
    assert ours[0] == "**buildsvc-0s**"
    assert warm[0] == "warm (build alone)"
    assert [text == "-" for text in warm[1:]] == [False, True, True, True, True, True]
    build = _rows(tables.waited_table(fictitious.book(cells), "build_seconds"))
    assert [row[0] for row in build[1:4]] == ["**buildsvc-5s**", "**buildsvc-20s**", "warm"]


def test_every_record_is_in_the_table_of_rounds() -> None:
    content = fictitious.cell(rounds=2)
    content["records"].append(
        fictitious.record(WARM, "settle", 0, seconds=None, build_seconds=77.77)
    )
    title, *lines = tables.round_table("the cell", _cell(content))
    rows = _rows(lines)
    assert title == "### the cell"
    assert len(rows) == 1 + len(content["records"])
    assert rows[-1][:8] == [WARM, "settle", "0", "01-01 00:00:00", "0.5", "-", "77.77", "0"]


@pytest.mark.parametrize(
    ("found", "missing", "word"),
    [
        (Estimate(1.0, 0.9, 1.05, 7), (), "met"),
        (Estimate(1.0, 0.9, 1.2, 7), (), "met; the limit lies within the interval"),
        (Estimate(1.2, 1.15, 1.3, 7), (), "**missed**"),
        (Estimate(1.2, 1.0, 1.3, 7), (), "**missed**; the limit lies within the interval"),
        (Estimate(1.0, 0.9, 1.05, 7), ("go: no warm",), "so far met"),
        (
            Estimate(1.2, 1.0, 1.3, 7),
            ("go: x",),
            "so far **missed**; the limit lies within the interval",
        ),
        (None, ("go: no warm",), "not measured"),
    ],
)
def test_what_is_said_of_a_limit(
    found: Estimate | None, missing: tuple[str, ...], word: str
) -> None:
    verdict = Verdict("ours ÷ warm", found, 1.1, at_least=False, missing=missing)
    lines = verdict_table([verdict])
    assert _rows(lines)[1][-2:] == ["≤ 1.1", word]
    said = [f"- Not judged yet: ours ÷ warm, for want of {each}." for each in missing]
    assert lines[-1:] == said or not missing


def test_remarks_follow_the_limits() -> None:
    value = Estimate(3.5, 3.4, 3.6, 5)
    lines = verdict_table([Verdict("a", value, 3, at_least=True, remarks=("go: x", "node: y"))])
    assert _rows(lines)[1] == ["a", "3.500 (3.400 to 3.600)", "5", "≥ 3", "met"]
    assert lines[-1] == "- a: go: x; node: y."


def test_what_several_limits_lack_is_said_once() -> None:
    def lacking(name: str, *missing: str) -> Verdict:
        return Verdict(name, None, 3, at_least=True, missing=missing)

    lines = verdict_table([lacking("a", "go: no warm"), lacking("b", "java: no warm")])
    assert lines[-2:] == [
        "- Not judged yet: a, for want of go: no warm.",
        "- Not judged yet: b, for want of java: no warm.",
    ]
    lines = verdict_table(
        [lacking("a", "go: no warm", "x: y"), lacking("b", "go: no warm", "x: y")]
    )
    assert lines[-1] == "- Not judged yet: all of them, for want of go: no warm; x: y."
    lines = verdict_table([lacking("a", "x: y"), lacking("b", "x: y"), lacking("c", "z: y")])
    assert lines[-2:] == [
        "- Not judged yet: a, b, for want of x: y.",
        "- Not judged yet: c, for want of z: y.",
    ]
