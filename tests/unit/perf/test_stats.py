import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perf import stats

_SECONDS = st.lists(st.floats(0.01, 1000), min_size=1, max_size=20)


@settings(max_examples=20)
@given(_SECONDS)
def test_the_interval_holds_the_median_and_lies_within_the_values(values: list[float]) -> None:
    found = stats.median(values)

    assert min(values) <= found.low <= found.value <= found.high <= max(values)
    assert found.count == len(values)


@settings(max_examples=20)
@given(_SECONDS)
def test_the_interval_is_that_of_the_resamples_medians(values: list[float]) -> None:
    chance = random.Random(3)
    ordered = sorted(values)
    drawn = [chance.choices(ordered, k=len(values)) for _ in range(stats.RESAMPLES)]
    medians = sorted(statistics.median(each) for each in drawn)

    found = stats.median(values, seed=3)

    # 2.5 % of 2000 lie below and above.
    assert (found.low, found.high) == pytest.approx((medians[50], medians[1949]))


def test_more_spread_makes_a_wider_interval() -> None:
    near = stats.median([2.0, 2.1, 2.2, 2.3, 2.4])
    far = stats.median([1.0, 1.5, 2.2, 3.0, 4.0])

    assert near.value == far.value
    assert near.high - near.low < far.high - far.low


def test_ratio_is_that_of_the_medians() -> None:
    found = stats.ratio([4.0, 6.0, 100.0], [2.0, 3.0, 4.0])

    assert found.value == pytest.approx(2.0)
    assert found.low <= 2.0 < found.high


def test_rounds_that_were_slow_on_both_sides_do_not_widen_the_interval() -> None:
    slow = [1.0, 2.0, 10.0, 3.0]

    together = stats.ratio([2 * value for value in slow], slow)
    apart = stats.ratio([*(2 * value for value in slow), 5.0], slow)

    assert together.low == together.high == pytest.approx(2.0)
    assert apart.low < apart.high


def test_equal_sides_have_ratio_one() -> None:
    assert stats.ratio([3.0] * 5, [3.0] * 5) == stats.Estimate(1.0, 1.0, 1.0, 5)


def test_the_same_measurements_give_the_same_interval() -> None:
    values = [1.0, 5.0, 2.0, 8.0]

    assert stats.median(values) == stats.median(values)


def test_a_geometric_mean_weighs_every_scenario_alike() -> None:
    twice = stats.Sides([2.0, 2.0], [1.0, 1.0], paired=True)
    eighth = stats.Sides([1.0, 1.0, 1.0], [8.0, 8.0, 8.0], paired=True)

    found = stats.geometric_mean([twice, eighth])

    assert found.value == found.low == found.high == pytest.approx(0.5)
    assert found.count == 2


def test_rounds_are_resampled_within_a_scenario() -> None:
    quick = stats.Sides([1.0, 1.1, 1.2], [1.0, 1.0, 1.0], paired=True)
    slow = stats.Sides([100.0, 110.0, 120.0], [100.0, 100.0, 100.0], paired=True)

    found = stats.geometric_mean([quick, slow])

    # Mixed with the quick ones' rounds, the slow ones would be up to a hundred times more.
    assert found.value == pytest.approx(1.1)
    assert 1.0 <= found.low < found.value < found.high < 1.21


@pytest.mark.parametrize(("paired", "same"), [(True, True), (False, False)])
def test_only_rounds_of_both_sides_are_resampled_together(*, paired: bool, same: bool) -> None:
    slow = [1.0, 2.0, 10.0, 3.0]

    found = stats.geometric_mean([stats.Sides(slow, slow, paired)])

    assert (found.low == found.high) is same


def test_text_for_a_table() -> None:
    assert stats.Estimate(2.345, 2.0, 3.0, 4).text() == "2.35 (2.00 to 3.00)"
