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


def test_text_for_a_table() -> None:
    assert stats.Estimate(2.345, 2.0, 3.0, 4).text() == "2.35 (2.00 to 3.00)"
