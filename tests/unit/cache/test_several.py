"""Working on several things at a time."""

from __future__ import annotations

import asyncio

import pytest

from buildsvc.cache.several import AT_A_TIME, each
from buildsvc.errors import ObjectNotFound, StoreUnavailable


async def test_results_are_in_order_and_not_all_at_once() -> None:
    running: list[int] = []
    peak = 0
    told: list[tuple[int, int]] = []

    async def work(number: int) -> int:
        nonlocal peak
        running.append(number)
        peak = max(peak, len(running))
        # The later ones of those that run end first.
        for _ in range(AT_A_TIME - number % AT_A_TIME):
            await asyncio.sleep(0)
        running.remove(number)
        return 2 * number

    count = 3 * AT_A_TIME + 1
    results = await each(range(count), work, lambda done, total: told.append((done, total)))
    assert results == [2 * number for number in range(count)]
    assert peak == AT_A_TIME
    assert told == [(done, count) for done in range(1, count + 1)]


async def test_so_many_at_a_time() -> None:
    running = most = 0
    done = []

    async def work(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(item)

    await each(range(20), work, at_a_time=3)
    assert (most, sorted(done)) == (3, list(range(20)))


async def test_the_first_error_ends_it() -> None:
    async def work(item: int) -> None:
        await asyncio.sleep(0)
        if item == 4:
            raise ObjectNotFound("4")
        assert item < 8

    with pytest.raises(ObjectNotFound):
        await each(range(100), work, at_a_time=2)


async def test_nothing_to_do() -> None:
    async def work(_: int) -> int:
        raise AssertionError

    assert await each([], work) == []


async def test_an_error_ends_the_others() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        if number == 3:
            raise StoreUnavailable("by the test")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with pytest.raises(StoreUnavailable, match="by the test"):
        await each(range(4 * AT_A_TIME), work)
    assert len(begun) == len(ended) + 1 == AT_A_TIME


async def test_a_defect_is_raised_as_one() -> None:
    async def work(_: int) -> None:
        raise ValueError("a defect")

    with pytest.raises(ExceptionGroup):
        await each([1], work)
