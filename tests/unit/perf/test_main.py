"""What is said while it is measured, and where that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from perf import host
from perf.__main__ import _base, _brief
from perf.comparison.matrix import Cell
from perf.host import PerfError
from tests.unit.perf import fictitious


def test_a_round_and_one_that_failed() -> None:
    record = fictitious.record("warm", "again", 1, build_seconds=2.0)
    assert _brief(record) == "  warm again 2: 2.00 s, 11 of 12 cached"
    failed = {"peer": "kaniko", "kind": "first", "round": 0, "began_unix": 1.0, "error": "killed"}
    assert _brief(failed) == "  kaniko first 1: FAILED"


@pytest.mark.parametrize(
    ("medium", "system", "problem"),
    [
        ("tmpfs", "ext4", "is no tmpfs, or memory has no 14 GiB free"),
        ("disk", "tmpfs", "is a tmpfs: a cell on the disk needs"),
        ("tmpfs", "tmpfs", ""),
        ("disk", "ext4", ""),
    ],
)
def test_what_a_cell_is_measured_on_is_what_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, medium: str, system: str, problem: str
) -> None:
    monkeypatch.setattr(host, "file_system", lambda _: system)
    cell = Cell("go", medium=medium)
    if not problem:
        assert _base(cell, tmp_path) == tmp_path
        return
    with pytest.raises(PerfError, match=problem):
        _base(cell, tmp_path)
