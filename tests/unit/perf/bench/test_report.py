from typing import Any

import pytest

from perf.bench.limits import checks
from perf.bench.report import print_report
from perf.bench.rounds import Measured, turned

_MET: dict[str, dict[str, Any]] = {
    "warm": {"seconds": 2.0},
    "pod-head-start": {
        "seconds": 2.1,
        "bound_seconds": 0.1,
        "published_after_seconds": 1.0,
        "added_bytes": 2_000_000,
        "diff_zstd_bytes": 1_000_000,
        "added_parts": {"databases": 300_000},
        "memory_together": 200_000_000,
        "memory_high_water": {"worker": 100_000_000},
    },
    "pod-immediate": {"seconds": 4.0, "bound_seconds": 0.2, "published_after_seconds": 2.0},
    "pod-ready-local": {"ready_seconds": 1.5, "bound_seconds": 0.1},
    "registry-cache": {"seconds": 20.0},
    "cold-pod": {"seconds": 101.0, "cpu_seconds": 70.0},
    "cold-stock": {"seconds": 100.0, "cpu_seconds": 60.0},
}


def _records(changed: dict[str, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    return [
        {"side": side, "round": number, **figures, **(changed or {}).get(side, {})}
        for side, figures in _MET.items()
        for number in range(3)
    ]


def test_everything_met() -> None:
    found = checks(Measured("sample", _records()))

    assert [check.met for check in found] == [True] * 10
    assert print_report({"scenarios": {"sample": _records()}}) == 0


@pytest.mark.parametrize(
    ("side", "figures", "name"),
    [
        ("pod-head-start", {"seconds": 2.6}, "pod with head start"),
        ("pod-immediate", {"seconds": 4.9}, "without head start"),
        ("registry-cache", {"seconds": 15.0}, "fresh stock"),
        ("cold-pod", {"seconds": 106.0}, "cold build"),
        ("pod-ready-local", {"bound_seconds": 2.0, "ready_seconds": 2.1}, "daemon ready"),
        ("pod-head-start", {"published_after_seconds": 9.0}, "published"),
        ("pod-head-start", {"added_bytes": 2_200_000}, "bytes added"),
        ("cold-pod", {"memory_together": 260_000_000}, "together"),
        ("pod-immediate", {"memory_high_water": {"worker": 160_000_000}}, "worker"),
    ],
)
def test_a_miss_is_seen_and_fails(side: str, figures: dict[str, Any], name: str) -> None:
    records = _records({side: figures})

    missed = [check.name for check in checks(Measured("sample", records)) if check.met is False]

    assert len(missed) == 1
    assert name in missed[0]
    assert print_report({"scenarios": {"sample": records}}) == 1


def test_bound_too_late() -> None:
    late = {side: {"bound_seconds": 0.6} for side in _MET if side.startswith("pod")}

    missed = [check.name for check in checks(Measured("s", _records(late))) if check.met is False]

    assert missed == ["endpoint bound after process start (s)"]


def test_a_short_build_may_take_a_little_longer() -> None:
    records = _records({"warm": {"seconds": 0.5}, "pod-head-start": {"seconds": 0.79}})

    assert checks(Measured("s", records))[0].met


def test_what_was_not_measured_neither_meets_nor_misses() -> None:
    assert {check.met for check in checks(Measured("s", []))} == {None}
    assert print_report({"scenarios": {"s": []}}) == 0


def test_each_round_begins_with_another_side() -> None:
    sides: list[tuple[str, Any]] = [("a", None), ("b", None), ("c", None)]

    orders = ["".join(name for name, _ in turned(sides, number)) for number in range(4)]

    assert orders == ["abc", "bca", "cab", "abc"]
