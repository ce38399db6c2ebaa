"""What the link alone costs a pod, beside what was measured."""

from __future__ import annotations

import pytest

from perf.comparison.names import HEAD_START, NO_START, WARM
from perf.reporting.floor import floor_lines, floors
from tests.unit.perf import fictitious


def _cell(scenario: str, received: int, **changed: object) -> fictitious.Content:
    content = fictitious.cell([NO_START, WARM], rounds=3, scenario=scenario, **changed)
    content = fictitious.with_records(
        content, NO_START, seconds=6.0, received_bytes=received, cpu_seconds=7.5
    )
    return fictitious.with_records(content, WARM, seconds=None, build_seconds=2.0)


def test_the_links_seconds_and_the_builds() -> None:
    link = {"round_trip_ms": 1.0, "mbit": 800.0}
    (found,) = floors(fictitious.book({"a": _cell("go", 300_000_000, link=link)}))
    assert (found.scenario, found.received_bytes) == ("go", 300_000_000)
    assert (found.link_seconds, found.warm_seconds) == pytest.approx((3.0, 2.0))
    assert (found.seconds, found.measured_seconds) == pytest.approx((5.0, 6.0))
    assert (found.processor_seconds, found.processors) == (7.5, 2)


def test_a_row_for_each_scenario_and_their_means() -> None:
    link = {"round_trip_ms": 1.0, "mbit": 800.0}
    cells = {"a": _cell("go", 300_000_000, link=link), "b": _cell("java", 800_000_000, link=link)}
    lines = floor_lines(fictitious.book(cells))
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["go", "java", "geometric mean"]
    assert rows[1][1:] == ["300", "3.00", "2.00", "5.00", "6.00", "7.50 ÷ 2", "2.50", "3.00"]
    # The root of 2.5 times 5.
    assert rows[3][-2:] == ["3.54", "3.00"]


def test_nothing_is_said_of_what_was_not_measured() -> None:
    alone = fictitious.cell([NO_START], scenario="go")
    without_link = fictitious.cell([NO_START, WARM], scenario="node", link=None)
    started = fictitious.cell([HEAD_START, WARM], scenario="java")
    book = fictitious.book({"a": alone, "b": without_link, "c": started})
    assert floors(book) == []
    assert floor_lines(book) == []
