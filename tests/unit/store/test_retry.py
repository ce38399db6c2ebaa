"""What is tried again, how often, how long, and what the caller sees."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import (
    InvalidName,
    ObjectExists,
    ObjectNotFound,
    ShortObject,
    StoreRefused,
    StoreUnavailable,
)
from buildsvc.store.faults import Fail, FaultyStore, Hold, LoseAnswer, Rule, Truncate
from buildsvc.store.retry import RetryingStore, RetryPolicy

if TYPE_CHECKING:
    from pathlib import Path

    from buildsvc.store.local import LocalStore


class Waits:
    """Takes the place of sleeping; remembers for how long, and lets its clock go on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.now = 1000.0

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


async def test_passing_failures_are_overcome(local: LocalStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    await asyncio.to_thread(source.write_bytes, b"0123456789")
    faulty = FaultyStore(local, [Rule("*", "a", call, Fail()) for call in (1, 3, 5, 7, 9, 11, 13)])
    store = RetryingStore(faulty, sleep=Waits())
    await store.create("a", b"created")
    await store.put("a", b"put")
    await store.put_file("a", source)
    assert await store.get("a") == b"0123456789"
    assert await store.get_range("a", 2, 3) == b"234"
    with (tmp_path / "target").open("w+b") as target:
        assert await store.get_range_to("a", 2, 3, target.fileno()) == 3
        assert target.read() == b"234"
    assert (await store.stat("a")).size == 10
    await store.delete("a")
    assert len(faulty.calls) == 15


async def test_waits_grow_to_a_limit_and_attempts_end(local: LocalStore) -> None:
    waits, told = Waits(), list[tuple[str, int, str]]()
    faulty = FaultyStore(local, [Rule("get", "*", 0, Fail(StoreUnavailable("dead")))])
    policy = RetryPolicy(attempts=6, first_wait=1.0, longest_wait=5.0, jitter=0.5)
    store = RetryingStore(
        faulty,
        policy,
        on_retry=lambda operation, attempt, error: told.append((operation, attempt, str(error))),
        sleep=waits,
    )
    with pytest.raises(StoreUnavailable, match="dead"):
        await store.get("a")
    assert faulty.calls == [("get", "a")] * 6
    assert told == [("get", attempt, "dead") for attempt in range(1, 6)]
    for seconds, least in zip(waits.seconds, (1, 2, 4, 5, 5), strict=True):
        assert least <= seconds <= min(least + 0.5, 5.0)


async def test_a_store_is_left_alone_for_as_long_as_it_asks(local: LocalStore) -> None:
    waits = Waits()
    busy = StoreUnavailable("busy", after=30.0)
    faulty = FaultyStore(local, [Rule("put", "*", call, Fail(busy)) for call in (1, 2)])
    store = RetryingStore(faulty, RetryPolicy(jitter=0.5), sleep=waits, clock=waits.clock)
    await store.put("a", b"data")
    assert await local.get("a") == b"data"
    assert len(waits.seconds) == 2
    # Not all who were sent away at one moment come back at one.
    assert all(30.0 < seconds <= 31.0 for seconds in waits.seconds)


async def test_all_operations_leave_the_store_alone(local: LocalStore) -> None:
    waits = Waits()
    busy = Fail(StoreUnavailable("busy", after=30.0))
    faulty = FaultyStore(local, [Rule("put", "a", 1, busy)])
    policy = RetryPolicy(attempts=1, deadline=60.0, jitter=0.5)
    store = RetryingStore(faulty, policy, sleep=waits, clock=waits.clock)
    with pytest.raises(StoreUnavailable, match="busy"):
        await store.put("a", b"data")
    assert waits.seconds == []
    await store.put("b", b"data")
    assert 30.0 <= sum(waits.seconds) <= 30.5
    await store.get("b")
    assert len(waits.seconds) == 1


async def test_no_store_is_left_alone_for_longer_than_an_operation_may_take(
    local: LocalStore,
) -> None:
    waits = Waits()
    busy = Fail(StoreUnavailable("busy", after=3600.0))
    faulty = FaultyStore(local, [Rule("put", "a", 1, busy)])
    store = RetryingStore(faulty, RetryPolicy(deadline=60.0), sleep=waits, clock=waits.clock)
    with pytest.raises(StoreUnavailable, match="busy"):
        await store.put("a", b"data")
    waits.now += 10
    await store.put("b", b"data")
    assert 50.0 <= sum(waits.seconds) <= 51.0


async def test_what_cannot_wait_for_so_long_is_not_sent(local: LocalStore) -> None:
    waits = Waits()
    busy = Fail(StoreUnavailable("busy", after=30.0))
    faulty = FaultyStore(local, [Rule("get", "a", 1, Fail()), Rule("put", "b", 0, busy)])

    async def meanwhile(seconds: float) -> None:
        await waits(seconds)
        if len(waits.seconds) == 1:
            with pytest.raises(StoreUnavailable, match="busy"):
                await store.put("b", b"data")

    policy = RetryPolicy(attempts=2, deadline=60.0)
    store = RetryingStore(faulty, policy, sleep=meanwhile, clock=waits.clock)
    with pytest.raises(StoreUnavailable, match="not sent"):
        await store.get("a")
    assert faulty.calls == [("get", "a"), ("put", "b"), ("put", "b")]


async def test_a_store_that_asks_for_more_than_the_time_left_is_not_waited_for(
    local: LocalStore,
) -> None:
    waits = Waits()
    faulty = FaultyStore(local, [Rule("get", "*", 0, Fail(StoreUnavailable("busy", after=121.0)))])
    with pytest.raises(StoreUnavailable, match="busy"):
        await RetryingStore(faulty, RetryPolicy(deadline=120.0), sleep=waits).get("a")
    assert waits.seconds == []


@pytest.mark.parametrize("kind", [ObjectNotFound, ObjectExists, ShortObject, StoreRefused])
async def test_other_errors_pass_at_once(local: LocalStore, kind: type[Exception]) -> None:
    faulty = FaultyStore(local, [Rule("*", "*", 0, Fail(kind("scripted")))])
    store = RetryingStore(faulty, sleep=Waits())
    for operation in (store.get("a"), store.create("a", b"")):
        with pytest.raises(kind):
            await operation
    with pytest.raises(kind):
        await anext(aiter(store.list("")))
    assert len(faulty.calls) == 3


async def test_an_invalid_name_is_not_tried_again(local: LocalStore) -> None:
    faulty = FaultyStore(local, [])
    with pytest.raises(InvalidName):
        await RetryingStore(faulty, sleep=Waits()).get("../a")
    assert len(faulty.calls) == 1


async def test_a_create_whose_answer_was_lost_shows_its_own_object(local: LocalStore) -> None:
    faulty = FaultyStore(local, [Rule("create", "heads/*", 1, LoseAnswer())])
    store = RetryingStore(faulty, sleep=Waits())
    with pytest.raises(ObjectExists):
        await store.create("heads/7", b"my nonce")
    assert await store.get("heads/7") == b"my nonce"
    assert [call for call in faulty.calls if call[0] == "create"] == [("create", "heads/7")] * 2


async def test_a_create_that_failed_before_it_was_sent_succeeds(local: LocalStore) -> None:
    store = RetryingStore(FaultyStore(local, [Rule("create", "*", 1, Fail())]), sleep=Waits())
    await store.create("heads/7", b"my nonce")
    assert await store.get("heads/7") == b"my nonce"


async def test_a_create_that_was_never_answered_stays_open(local: LocalStore) -> None:
    faulty = FaultyStore(
        local, [Rule("create", "*", 1, LoseAnswer()), Rule("create", "*", 0, Fail())]
    )
    with pytest.raises(StoreUnavailable):
        await RetryingStore(faulty, sleep=Waits()).create("heads/7", b"my nonce")
    assert await local.get("heads/7") == b"my nonce"


async def test_a_lost_answer_of_a_put_or_delete_costs_nothing(local: LocalStore) -> None:
    faulty = FaultyStore(
        local, [Rule("put", "*", 1, LoseAnswer()), Rule("delete", "*", 1, LoseAnswer())]
    )
    store = RetryingStore(faulty, sleep=Waits())
    await store.put("a", b"data")
    assert await local.get("a") == b"data"
    await store.delete("a")
    with pytest.raises(ObjectNotFound):
        await local.get("a")


@pytest.mark.parametrize("keep", [0, 1, 499, 500, 501, 999, 1100])
async def test_a_broken_listing_goes_on_where_it_broke(local: LocalStore, keep: int) -> None:
    names = [f"heads/{number:04}" for number in range(1101)]
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(local.put(name, b""))
    faulty = FaultyStore(local, [Rule("list", "heads/", 1, Truncate(keep))])
    store = RetryingStore(faulty, sleep=Waits())
    assert [stat.name async for stat in store.list("heads/")] == names
    assert faulty.calls == [("list", "heads/")] * 2


async def test_the_deadline_ends_an_attempt_that_hangs(local: LocalStore) -> None:
    hold = Hold(asyncio.Event())
    faulty = FaultyStore(
        local, [Rule("get", "*", 1, Fail(StoreUnavailable("at first"))), Rule("get", "*", 0, hold)]
    )
    store = RetryingStore(faulty, RetryPolicy(deadline=0.1), sleep=Waits())
    with pytest.raises(StoreUnavailable, match=r"0\.1 s.*at first"):
        await store.get("a")
    assert hold.reached.is_set()


async def test_a_time_out_of_the_callers_file_passes(local: LocalStore) -> None:
    script = [Rule("get", "*", 0, Fail(TimeoutError("a network file system's")))]
    with pytest.raises(TimeoutError, match="file system"):
        await RetryingStore(FaultyStore(local, script), sleep=Waits()).get("a")


async def test_the_callers_own_time_limit_is_not_swallowed(local: LocalStore) -> None:
    hold = Hold(asyncio.Event())
    store = RetryingStore(FaultyStore(local, [Rule("get", "*", 0, hold)]), sleep=Waits())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await store.get("a")
