"""Which number is the newest of a log, with and without a LIST."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from buildsvc.cache import numbers
from buildsvc.cache.keys import LAST_NUMBER, parse_number
from buildsvc.cache.numbers import is_milestone, newest_number
from tests.unit.cache.fakes import MemoryStore

PREFIX = "log/"


def name(number: int) -> str:
    return f"{PREFIX}{number:020d}"


def log(there: Iterable[int]) -> MemoryStore:
    store = MemoryStore()
    store.objects = {name(number): b"" for number in there}
    return store


async def newest(store: MemoryStore) -> int:
    return await newest_number(
        store, PREFIX, name, lambda text: parse_number(text.removeprefix(PREFIX))
    )


@pytest.mark.parametrize("refused", [set(), {"list"}])
async def test_a_log_without_gaps(refused: set[str]) -> None:
    for count in (0, 1, 2, 3, 7, 8, 9, 100, 255, 256):
        store = log(range(1, count + 1))
        store.refuse = refused
        assert await newest(store) == count


async def test_milestones_are_enough_without_a_list() -> None:
    for last in range(1, 130):
        for oldest in {1, last // 2, last - 1, last}:
            there = [n for n in range(1, last + 1) if n >= oldest or is_milestone(n, last)]
            store = log(there)
            store.refuse = {"list"}
            assert await newest(store) == last, there


async def test_milestones_are_enough_for_all_numbers_to_come() -> None:
    """Whenever it was that others were deleted."""
    for seed in range(50):
        dice = random.Random(seed)
        store, last = log([]), 0
        store.refuse = {"list"}
        for _ in range(20):
            for _ in range(dice.randrange(1, 40)):
                last += 1
                store.objects[name(last)] = b""
            for number in range(1, dice.randrange(1, last + 1)):
                if not is_milestone(number, last):
                    store.objects.pop(name(number), None)
            assert await newest(store) == last


def test_milestones_are_few() -> None:
    for last in (1, 2, 1000, 2**16 - 1):
        count = sum(is_milestone(number, last) for number in range(1, last + 1))
        assert count <= 2 * last.bit_length()


async def test_a_list_that_is_behind() -> None:
    store = log(range(50, 90))
    store.listed = [name(number) for number in range(50, 60)]
    assert await newest(store) == 89


async def test_a_list_that_is_too_long_is_no_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbers, "_LIST_LIMIT", 9)
    last = 43
    there = [n for n in range(1, last + 1) if n >= 30 or is_milestone(n, last)]
    store = log(there)
    # It does not come to the newest, and after the last that it shows there is a gap.
    assert await newest(store) == last
    assert store.names_listed == 10


async def test_what_stands_above_is_not_looked_at() -> None:
    store = log([1, 2, 3, 40, LAST_NUMBER])

    async def below(number: int) -> int:
        return await newest_number(
            store, PREFIX, name, lambda text: parse_number(text.removeprefix(PREFIX)), number
        )

    assert [await below(n) for n in (LAST_NUMBER, 40, 3, 1)] == [40, 3, 2, 0]


@pytest.mark.parametrize(
    ("digits", "number"),
    [
        ("0" * 19 + "7", 7),
        (f"{LAST_NUMBER:020d}", LAST_NUMBER),
        (f"{LAST_NUMBER + 1:020d}", None),
        ("9" * 20, None),
        ("0" * 20, None),
        ("0" * 18 + "7", None),
        ("0" * 19 + "x", None),
        ("", None),
    ],
)
def test_what_is_a_number(digits: str, number: int | None) -> None:
    assert parse_number(digits) == number
