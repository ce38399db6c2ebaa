"""A peer that is quicker somewhere is shown with the reason, or with the lack of one."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from perf.comparison.names import HEAD_START, NO_START, PEERS, WARM
from perf.host import REPOSITORY
from perf.reporting.findings import win_lines
from perf.reporting.readme import RESULTS
from perf.reporting.results import read
from perf.reporting.wins import read_reasons, wins
from tests.unit.perf import fictitious


def _quick(seconds: float, build: float) -> fictitious.Content:
    return fictitious.with_records(
        fictitious.cell([NO_START, HEAD_START, "kaniko"]),
        "kaniko", seconds=seconds, build_seconds=build,
    )  # fmt: skip


def test_each_is_compared_by_its_own_measure() -> None:
    book = fictitious.book({"a": _quick(0.1, 9.0), "b": _quick(9.0, 0.2), "c": _quick(9.0, 9.0)})
    found = [(win.cell, win.peer, win.ours, win.seconds) for win in wins(book, {})]
    assert found == [("a", "kaniko", NO_START, 0.1), ("b", "kaniko", HEAD_START, 0.2)]
    assert all(win.our_seconds > 2 for win in wins(book, {}))


def test_the_reason_of_a_scenario_goes_before_that_of_all() -> None:
    book = fictitious.book({"a": _quick(0.1, 9.0)})
    anywhere = {"any": {"kaniko": "It is small."}}
    assert wins(book, anywhere)[0].reason == "It is small."
    here = anywhere | {"python": {"kaniko": "No step."}, "go": {"kaniko": "Other."}}
    assert wins(book, here)[0].reason == "No step."
    assert wins(book, {"go": {"kaniko": "Other."}})[0].reason == ""
    pair = {"any": {"kaniko": "It is small.", "kaniko buildsvc-0s": "It is there."}}
    assert wins(book, pair)[0].reason == "It is there."


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"axis": "change", "change": "nothing"}, "Nothing runs."),
        ({"axis": "change", "change": "dependency"}, "It is python."),
        ({"axis": "change", "change": "base"}, ""),
        ({"axis": "medium", "medium": "disk"}, "It is on disk."),
        ({"axis": "mounts", "mounts": False}, "It has none."),
        ({"axis": "network", "network": "unshaped"}, "It is python."),
    ],
)
def test_what_is_varied_has_reasons_of_its_own(about: dict[str, Any], reason: str) -> None:
    reasons = {
        "nothing": {"kaniko": "Nothing runs."},
        "disk": {"kaniko": "It is on disk."},
        "without-mounts": {"kaniko": "It has none."},
        "python": {"kaniko": "It is python."},
    }
    content = fictitious.with_records(
        fictitious.cell([NO_START, "kaniko"], **about), "kaniko", seconds=0.1
    )
    (win,) = wins(fictitious.book({"a": content}), reasons)
    assert win.reason == reason


def test_where_intervals_overlap_that_is_the_reason() -> None:
    content = fictitious.cell([NO_START, "kaniko"])
    ours = [
        each["seconds"]
        for each in content["records"]
        if each["peer"] == NO_START and each["kind"] == "again"
    ]
    close = statistics.median(ours) - 0.001
    (win,) = wins(
        fictitious.book({"a": fictitious.with_records(content, "kaniko", seconds=close)}), {}
    )
    assert "intervals overlap" in win.reason


def test_lines_for_people() -> None:
    book = fictitious.book({"a": _quick(0.1, 9.0), "b": _quick(0.2, 9.0), "c": _quick(9.0, 0.2)})
    known = win_lines(wins(book, {"any": {"kaniko": "It is small."}}))
    assert known[0].startswith("- kaniko ÷ buildsvc-0s: a (0.10 s ÷ ")
    assert ", b (0.20 s ÷ " in known[0]
    assert known[0].endswith(" s). It is small.")
    assert known[1].startswith("- kaniko ÷ buildsvc-20s: c (0.20 s")
    assert "Nobody has written down why" in win_lines(wins(book, {}))[0]
    assert win_lines([]) == ["No peer was quicker anywhere."]


def test_nobody_wins_against_what_was_not_measured() -> None:
    assert wins(fictitious.book({"a": fictitious.cell([WARM, NO_START], rounds=0)}), {}) == []
    assert wins(fictitious.book({"a": fictitious.cell([WARM])}), {}) == []


def test_crowds_are_compared_with_crowds_of_their_size() -> None:
    content = fictitious.cell(["buildsvc-0s-x4", "kaniko-x4", "kaniko-x1"], axis="pods")
    content = fictitious.with_records(content, "kaniko-x4", seconds=0.5)
    content = fictitious.with_records(content, "kaniko-x1", seconds=0.1)
    (win,) = wins(fictitious.book({"a": content}), {"any": {"kaniko": "It is small."}})
    assert (win.peer, win.ours, win.reason) == ("kaniko-x4", "buildsvc-0s-x4", "It is small.")


def test_reasons_are_of_peers_that_there_are(tmp_path: Path) -> None:
    committed = read_reasons()
    named = {name for reasons in committed.values() for key in reasons for name in key.split(" ")}
    assert named <= set(PEERS)
    other = tmp_path / "reasons.toml"
    other.write_text('[go]\nwarm = "x"\n')
    assert read_reasons(other) == {"go": {"warm": "x"}}


@pytest.mark.skipif(not (REPOSITORY / RESULTS).exists(), reason="no results are committed yet")
def test_every_win_of_the_committed_results_has_a_reason() -> None:
    assert [win for win in wins(read(REPOSITORY / RESULTS)) if not win.reason] == []
