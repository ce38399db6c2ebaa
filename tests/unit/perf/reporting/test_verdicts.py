"""Every limit can be met, missed, or not judged, and says which scenario or peer is missing."""

from __future__ import annotations

from typing import Any

import pytest

from perf import stats
from perf.comparison.names import (
    COLD,
    DANCE,
    FIRST,
    HEAD_START,
    NO_START,
    PLAIN,
    REMOTE,
    SCENARIOS,
    WARM,
)
from perf.reporting.verdicts import Verdict, verdicts
from tests.unit.perf import fictitious

#: Rounds that meet every limit, the same in all scenarios.
_MET: dict[str, tuple[float | None, float]] = {
    **dict.fromkeys(REMOTE, (30.0, 29.0)),
    FIRST: (10.2, 10.0),
    NO_START: (3.5, 3.0),
    HEAD_START: (None, 2.1),
    WARM: (None, 2.0),
    COLD: (10.0, 9.5),
    "buildkit-registry-zstd": (7.5, 6.5),
    "buildkit-s3-zstd": (7.2, 6.9),
    "kaniko": (18.0, 17.9),
    "dind-cold": (19.0, 18.0),
    "dind-cache-from": (20.0, 19.0),
}
_REMOTE_20_S = ["best remote cache ÷ 20 s", "best remote cache, or cache-dance ÷ 20 s"]
_REMOTE_0_S = ["best remote cache ÷ no", "best remote cache, or cache-dance ÷ no"]
_NAMES = [verdict.name for verdict in verdicts(fictitious.book({}))]

pytestmark = pytest.mark.usefixtures("few_resamples")


def _cell(scenario: str, changed: dict[str, Any] | None = None) -> fictitious.Content:
    wanted = _MET | (changed or {})
    cell = fictitious.cell(wanted, rounds=3, scenario=scenario)
    for peer, (seconds, build) in wanted.items():
        cell = fictitious.with_records(cell, peer, seconds=seconds, build_seconds=build)
    return cell


def _judged(changed: dict[str, Any] | None = None) -> dict[str, Verdict]:
    cells = {name: _cell(name, changed) for name in SCENARIOS}
    return {verdict.name: verdict for verdict in verdicts(fictitious.book(cells))}


def test_everything_met() -> None:
    found = _judged()
    assert list(found) == _NAMES
    assert [verdict.met for verdict in found.values()] == [True] * 13
    warm = found["20 s head start ÷ warm daemon"].found
    assert warm is not None
    assert warm.value == pytest.approx(2.1 / 2.0)


@pytest.mark.parametrize(
    ("peer", "seconds", "build", "missed"),
    [
        (HEAD_START, None, 2.21, ["20 s head start ÷ warm daemon", *_REMOTE_20_S]),
        (NO_START, 3.605, 3.0, ["no head start ÷ warm", *_REMOTE_0_S, "kaniko ÷ no"]),
        ("buildkit-inline", 8.0, 6.2, _REMOTE_20_S),
        ("buildkit-local", 6.9, 6.5, _REMOTE_0_S),
        (DANCE, 8.0, 6.2, _REMOTE_20_S[1:]),
        ("kaniko", 18.0, 10.0, ["kaniko ÷ 20 s head start"]),
        ("kaniko", 17.0, 16.9, ["kaniko ÷ no head start"]),
        ("dind-cold", 17.0, 10.0, ["dind-cold ÷ 20 s head start", "dind-cold ÷ no head start"]),
        ("dind-cache-from", 17.0, 16.0, ["dind-cache-from ÷ no head start"]),
        (FIRST, 10.31, 10.0, ["first build's end ÷ buildkit-cold"]),
    ],
)
def test_a_miss_is_seen(peer: str, seconds: float | None, build: float, missed: list[str]) -> None:
    found = [name for name, verdict in _judged({peer: (seconds, build)}).items() if not verdict.met]
    assert len(found) == len(missed)
    assert all(name.startswith(start) for name, start in zip(found, missed, strict=True))


def test_at_the_limit_it_is_met() -> None:
    value = stats.Estimate(2.0, 1.9, 2.1, 5)
    assert Verdict("", value, 2.0, at_least=True).met
    assert Verdict("", value, 2.0, at_least=False).met
    assert not Verdict("", value, 2.0, at_least=True).sure
    assert Verdict("", value, 1.8, at_least=True).sure
    assert not Verdict("", None, 1.8, at_least=True).sure


def test_nothing_measured_says_every_scenario() -> None:
    for verdict in verdicts(fictitious.book({})):
        assert (verdict.met, verdict.found) == (None, None)
        assert verdict.missing == tuple(f"{name}: not measured" for name in SCENARIOS)


def test_a_missing_scenario_is_said_and_nothing_is_judged() -> None:
    cells = {name: _cell(name) for name in SCENARIOS if name != "java"}
    for verdict in verdicts(fictitious.book(cells)):
        assert verdict.met is None
        assert verdict.found is not None
        assert verdict.missing == ("java: not measured",)


def test_a_missing_peer_is_said() -> None:
    cells = {name: _cell(name) for name in SCENARIOS}
    cells["go"] = fictitious.without(cells["go"], "kaniko")
    cells["node"] = fictitious.without(cells["node"], FIRST, NO_START, HEAD_START)
    cells["java"] = fictitious.without(cells["java"], *REMOTE)
    found = {verdict.name: verdict for verdict in verdicts(fictitious.book(cells))}
    assert found["kaniko ÷ no head start"].missing == (
        "go: no kaniko",
        "node: no buildsvc-0s",
        "java: no kaniko",
    )
    assert found["first build's end ÷ buildkit-cold"].missing == (
        "node: no first build of buildsvc",
    )
    assert found["best remote cache ÷ no head start"].missing == (
        "go: no kaniko",
        "node: no buildsvc-0s",
        "java: no remote cache",
    )
    assert all(verdict.met is None for verdict in found.values())


def test_a_first_build_without_the_time_of_its_end_is_missing() -> None:
    found = _judged({FIRST: (None, 10.0)})["first build's end ÷ buildkit-cold"]
    assert found.found is None
    assert found.missing[0] == "python: no first build of buildsvc"


def test_the_best_remote_cache_is_chosen_in_each_scenario_and_by_measure() -> None:
    found = _judged()
    assert found["best remote cache ÷ 20 s head start"].remarks[0] == (
        "python: buildkit-registry-zstd"
    )
    assert found["best remote cache ÷ no head start"].remarks[5] == "manyfiles: buildkit-s3-zstd"


def test_a_remote_cache_that_was_not_measured_may_be_the_best_one() -> None:
    cells = {name: _cell(name) for name in SCENARIOS}
    cells["go"] = fictitious.without(cells["go"], "buildkit-inline", "buildah")
    # They differ in cache mounts alone, and nothing is to be mounted there.
    cells["manyfiles"] = fictitious.without(cells["manyfiles"], PLAIN, DANCE)
    for verdict in verdicts(fictitious.book(cells)):
        if verdict.name.startswith("best remote"):
            assert verdict.found is not None
            assert verdict.missing == ("go: no buildkit-inline and no buildah",)
        else:
            assert verdict.missing == ()


def test_a_scenario_of_ones_own_counts_too() -> None:
    cells = {name: _cell(name) for name in SCENARIOS}
    cells["mine"] = _cell("mine", {WARM: (None, 0.001)})
    found = {verdict.name: verdict for verdict in verdicts(fictitious.book(cells))}
    assert found["no head start ÷ warm daemon"].met is False
