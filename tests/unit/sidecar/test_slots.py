"""Download slots: the most urgent goes first, budgets hold, nobody starves or leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sidecar.slots import Slots, Urgency

DEMAND, TRACE, REST = Urgency


async def test_the_most_urgent_waiter_gets_the_next_slot() -> None:
    slots = Slots(downloads=1, staged_bytes=1000, rest_bytes=500)
    order: list[str] = []
    release = asyncio.Event()

    async def use(name: str, urgency: Urgency) -> None:
        async with slots.download(1, lambda: urgency):
            order.append(name)
            if name == "first":
                await release.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(use("first", REST))
        await asyncio.sleep(0)
        for name, urgency in (("rest", REST), ("trace", TRACE), ("demand", DEMAND)):
            group.create_task(use(name, urgency))
        await asyncio.sleep(0)
        release.set()
    assert order == ["first", "demand", "trace", "rest"]


async def test_urgency_is_asked_again_when_something_hurries() -> None:
    slots = Slots(downloads=1, staged_bytes=1000, rest_bytes=500)
    order: list[str] = []
    urgencies = {"a": TRACE, "b": REST}
    release = asyncio.Event()

    async def use(name: str) -> None:
        async with slots.download(1, lambda: urgencies.get(name, DEMAND)):
            order.append(name)
            if name == "first":
                await release.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(use("first"))
        await asyncio.sleep(0)
        group.create_task(use("a"))
        group.create_task(use("b"))
        await asyncio.sleep(0)
        urgencies["b"] = DEMAND
        slots.hurry()
        release.set()
    assert order == ["first", "b", "a"]


async def test_staged_bytes_are_bounded_until_they_are_given_back() -> None:
    slots = Slots(downloads=4, staged_bytes=100, rest_bytes=0)
    entered: list[int] = []
    unstage: list[Callable[[], None]] = []

    async def use(number: int) -> None:
        async with slots.download(60, lambda: TRACE) as done:
            entered.append(number)
            unstage.append(done)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(use(number))
        for _ in range(5):
            await asyncio.sleep(0)
        assert entered == [0]
        unstage[0]()
        for _ in range(5):
            await asyncio.sleep(0)
        assert entered == [0, 1]
        unstage[1]()


async def test_what_is_larger_than_the_budget_goes_alone() -> None:
    slots = Slots(downloads=2, staged_bytes=10, rest_bytes=0)
    async with asyncio.timeout(5), slots.download(1000, lambda: TRACE) as unstage:
        pass
    unstage()
    async with asyncio.timeout(5), slots.download(5, lambda: TRACE):
        pass


async def test_a_failed_download_gives_its_bytes_back() -> None:
    slots = Slots(downloads=1, staged_bytes=10, rest_bytes=0)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            async with slots.download(10, lambda: TRACE):
                raise ValueError("broken")


@pytest.mark.parametrize("when", ["waiting", "leaving", "admitted"])
async def test_a_cancelled_waiter_gives_its_place_back(when: str) -> None:
    slots = Slots(downloads=1, staged_bytes=10, rest_bytes=0)
    release = asyncio.Event()
    waiters: list[asyncio.Task[None]] = []

    async def hold() -> None:
        async with slots.download(5, lambda: DEMAND) as unstage:
            await release.wait()
            # The queue meets the cancelled waiter's turn before its task has run again.
            if when == "leaving":
                waiters[0].cancel()
        unstage()
        # The slot is given to the waiter here; it is cancelled before it runs again.
        if when == "admitted":
            waiters[0].cancel()

    async def wait() -> None:
        async with slots.download(10, lambda: TRACE):
            raise AssertionError("was cancelled before it could run")

    async with asyncio.TaskGroup() as group:
        holder = group.create_task(hold())
        await asyncio.sleep(0)
        waiters.append(group.create_task(wait()))
        await asyncio.sleep(0)
        if when == "waiting":
            waiters[0].cancel()
            await asyncio.wait(waiters)
        release.set()
        await holder
    # Neither more nor less fits than at first.
    async with asyncio.timeout(5), slots.download(10, lambda: TRACE):
        second = asyncio.create_task(slots.download(1, lambda: DEMAND).__aenter__())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not second.done()
        second.cancel()
        await asyncio.wait([second])


async def test_the_rest_waits_while_it_is_held_and_nothing_waits_for_it() -> None:
    slots = Slots(downloads=2, staged_bytes=100, rest_bytes=20)
    async with slots.download(20, lambda: REST) as unstage:
        pass
    slots.hold_rest(held=True)
    urgencies = {"rest": REST, "later": REST}
    begun: dict[str, asyncio.Event] = {"rest": asyncio.Event(), "later": asyncio.Event()}

    async def use(name: str) -> None:
        async with slots.download(10, lambda: urgencies[name]) as done:
            begun[name].set()
        done()

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        for name in begun:
            group.create_task(use(name))
        await asyncio.sleep(0)
        # All that is not the rest's, beside what that has staged.
        async with slots.download(80, lambda: DEMAND) as needed:
            pass
        needed()
        unstage()
        await asyncio.sleep(0)
        assert not begun["rest"].is_set()
        assert not begun["later"].is_set()
        # It is asked for after all.
        urgencies["later"] = DEMAND
        slots.hurry()
        await begun["later"].wait()
        assert not begun["rest"].is_set()
        slots.hold_rest(held=False)
        await begun["rest"].wait()
    assert slots.staged == 0


async def test_who_hurries_keeps_its_place_among_the_urgent() -> None:
    slots = Slots(downloads=1, staged_bytes=1000, rest_bytes=500)
    order: list[str] = []
    urgencies = {"first": TRACE, "early": REST, "late": TRACE}

    async def use(name: str) -> None:
        async with slots.download(1, lambda: urgencies[name]):
            order.append(name)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for name in urgencies:
            group.create_task(use(name))
        await asyncio.sleep(0)
        urgencies["early"] = TRACE
        slots.hurry()
    assert order == ["first", "early", "late"]


async def test_who_gives_up_lets_the_next_one_in() -> None:
    slots = Slots(downloads=4, staged_bytes=100, rest_bytes=20)
    async with slots.download(80, lambda: TRACE):
        gives_up = asyncio.create_task(slots.download(50, lambda: TRACE).__aenter__())
        rest = asyncio.create_task(slots.download(10, lambda: REST).__aenter__())
        await asyncio.sleep(0)
        gives_up.cancel()
        async with asyncio.timeout(5):
            await rest


async def test_the_rest_has_no_more_than_its_own_bytes() -> None:
    slots = Slots(downloads=4, staged_bytes=100, rest_bytes=20)
    async with slots.download(15, lambda: REST) as unstage:
        waiting = asyncio.create_task(slots.download(15, lambda: REST).__aenter__())
        await asyncio.sleep(0)
        assert not waiting.done()
        unstage()
        async with asyncio.timeout(5):
            await waiting
