"""What is said while it is measured."""

from __future__ import annotations

from perf.__main__ import _brief
from tests.unit.perf import fictitious


def test_a_round_and_one_that_failed() -> None:
    record = fictitious.record("warm", "again", 1, build_seconds=2.0)
    assert _brief(record) == "  warm again 2: 2.00 s, 11 of 12 cached"
    failed = {"peer": "kaniko", "kind": "first", "round": 0, "began_unix": 1.0, "error": "killed"}
    assert _brief(failed) == "  kaniko first 1: FAILED"
