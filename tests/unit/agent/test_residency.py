"""Who waits for what, and who is told."""

from __future__ import annotations

import asyncio

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar.agent.events import Events
from sidecar.agent.index import Unavailable
from sidecar.agent.residency import Residency, blob, snapshot
from tests.unit.clock import Clock

A, B, C = snapshot("a"), snapshot("b"), snapshot("c")


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def residency(events: Events, clock: Clock) -> Residency:
    made = Residency(events, clock)
    made.add_lazy(A)
    made.add_lazy(B)
    return made


def taken(queue: asyncio.Queue[agent_pb2.Event]) -> list[agent_pb2.Event]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


def demands(queue: asyncio.Queue[agent_pb2.Event]) -> list[str]:
    return [e.demand.name for e in taken(queue) if e.HasField("demand")]


async def begun(residency: Residency, *keys: object) -> asyncio.Task[None]:
    task = asyncio.create_task(residency.require(keys))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return task


async def test_what_is_local_is_not_waited_for(events: Events, residency: Residency) -> None:
    with events.listening() as queue:
        await residency.require([C])
        (event,) = taken(queue)
    assert (event.use.object.name, event.use.waited) == ("c", 0)
    assert residency.used == (C,)


async def test_all_who_wait_go_on_after_one_demand(
    events: Events, residency: Residency, clock: Clock
) -> None:
    with events.listening() as queue:
        waiting = [await begun(residency, A, B, C) for _ in range(3)]
        assert demands(queue) == ["a", "b"]
        residency.mark_local(A)
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        clock.now += 2.5
        residency.mark_local(B)
        await asyncio.gather(*waiting)
        uses = {e.use.object.name: e.use.waited for e in taken(queue) if e.HasField("use")}
    assert uses["b"] == 2.5
    assert residency.used == (A, B, C)
    assert residency.is_local(A)


async def test_a_use_counts_once(events: Events, residency: Residency) -> None:
    residency.mark_local(A)
    with events.listening() as queue:
        await residency.require([A])
        await residency.require([A])
        assert len(taken(queue)) == 1


async def test_a_failure_reaches_everybody_and_the_next_asks_again(
    events: Events, residency: Residency
) -> None:
    with events.listening() as queue:
        waiting = [await begun(residency, A), await begun(residency, A, B)]
        assert residency.fail(A, "the store is gone")
        for task in waiting:
            with pytest.raises(Unavailable, match="the store is gone"):
                await task
        assert demands(queue) == ["a", "b"]
        assert not residency.fail(A, "nobody waits")
        again = await begun(residency, A)
        assert demands(queue) == ["a"]
    residency.mark_local(A)
    await again


async def test_what_is_removed_is_not_waited_for_any_more(residency: Residency) -> None:
    task = await begun(residency, A)
    residency.forget(A)
    with pytest.raises(Unavailable, match="removed"):
        await task
    assert residency.is_local(A)
    # A pod that lives long would name ever more that is not there.
    assert residency.used == ()


async def test_one_who_gives_up_does_not_disturb_the_others(residency: Residency) -> None:
    first, second = await begun(residency, A), await begun(residency, A)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    residency.mark_local(A)
    await second


async def test_a_demand_ends_with_the_last_who_waits(events: Events, residency: Residency) -> None:
    with events.listening() as queue:
        first, second = await begun(residency, A), await begun(residency, A, A)
        for task, left in ((first, [A]), (second, [])):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert residency.demanded() == left
        assert not residency.fail(A, "nobody waits")
        assert demands(queue) == ["a"]
        again = await begun(residency, A)
        assert demands(queue) == ["a"]
    residency.mark_local(A)
    await again


async def test_who_opened_a_file_waits_whoever_else_gives_up(residency: Residency) -> None:
    residency.demand(A)
    task = await begun(residency, A)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert residency.is_demanded(A)


async def test_demands_from_outside_are_counted_too(
    events: Events, residency: Residency, clock: Clock
) -> None:
    key = blob("sha256:1")
    residency.add_lazy(key)
    with events.listening() as queue:
        residency.demand(key)
        residency.demand(key)
        assert demands(queue) == ["sha256:1"]
        assert residency.demanded() == [key]
        assert residency.is_demanded(key)
        clock.now += 1
        residency.mark_local(key)
        await asyncio.sleep(0)
        (event,) = taken(queue)
    assert (event.use.object.kind, event.use.waited) == (agent_pb2.OBJECT_KIND_BLOB, 1)
    residency.demand(key)
    assert residency.demanded() == []


async def test_a_new_listener_hears_only_what_comes(events: Events, residency: Residency) -> None:
    task = await begun(residency, A)
    with events.listening() as queue:
        assert queue.empty()
        residency.mark_local(A)
        await task
        assert not queue.empty()
