"""What each of the other wrappers adds."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import ObjectNotFound, ShortObject, StoreUnavailable
from buildsvc.store.bandwidth import BandwidthLimitedStore
from buildsvc.store.faults import Fail, FaultyStore, FlipBit, Hold, LoseAnswer, Rule, Truncate
from buildsvc.store.limit import LimitedStore
from buildsvc.store.meter import MeteredStore, StoreUse

if TYPE_CHECKING:
    from pathlib import Path

    from buildsvc.store.local import LocalStore


async def test_no_more_than_the_limit_at_one_time(local: LocalStore) -> None:
    for number in range(3):
        await local.put(f"a/{number}", b"data")
    holds = [Hold(asyncio.Event()) for _ in range(3)]
    script = [Rule("get", f"a/{number}", 1, hold) for number, hold in enumerate(holds)]
    use = StoreUse()
    store = LimitedStore(MeteredStore(FaultyStore(local, script), use), 2)
    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(store.get(f"a/{number}"))
        await holds[0].reached.wait()
        await holds[1].reached.wait()
        assert use.in_flight == 2
        assert not holds[2].reached.is_set()
        holds[1].go.set()
        await holds[2].reached.wait()
        assert use.in_flight == 2
        holds[0].go.set()
        holds[2].go.set()


async def test_a_failed_or_cancelled_operation_gives_its_place_back(local: LocalStore) -> None:
    hold = Hold(asyncio.Event())
    script = [Rule("get", "a", 1, Fail()), Rule("get", "a", 2, hold)]
    store = LimitedStore(FaultyStore(local, script), 1)
    with pytest.raises(StoreUnavailable):
        await store.get("a")
    task = asyncio.create_task(store.get("a"))
    await hold.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ObjectNotFound):
        await store.get("a")


async def test_a_limited_listing_lets_its_reader_use_the_store(local: LocalStore) -> None:
    store = LimitedStore(local, 1)
    await store.put("a", b"data")
    assert [await store.get(stat.name) async for stat in store.list("")] == [b"data"]


class _Time:
    """A clock that only sleepers move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


async def test_what_is_sent_waits_for_what_was_sent_before(
    local: LocalStore, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    await asyncio.to_thread(source.write_bytes, b"x" * 3000)
    time = _Time()
    store = BandwidthLimitedStore(local, 1000, sleep=time.sleep, clock=time.clock)
    await store.put_file("a", source)
    assert time.slept == []
    await store.put("b", b"x" * 500)
    assert time.slept == [3.0]
    # What nobody has sent meanwhile is not made up for.
    time.now += 100
    await store.put("c", b"x" * 500)
    await store.put("d", b"x")
    assert time.slept == [3.0, 0.5]


async def test_neither_readers_nor_heads_wait_for_what_was_sent(
    local: LocalStore, tmp_path: Path
) -> None:
    time = _Time()
    store = BandwidthLimitedStore(local, 1, sleep=time.sleep, clock=time.clock)
    await store.put("a", b"x" * 1000)
    await store.create("heads/1", b"head")
    assert await store.get("a") == b"x" * 1000
    assert await store.get_range("a", 0, 1) == b"x"
    assert (await store.stat("a")).size == 1000
    assert [found.name async for found in store.list("")] == ["a", "heads/1"]
    await store.delete("a")
    with (tmp_path / "target").open("wb") as target:
        assert await store.get_range_to("heads/1", 0, 4, target.fileno()) == 4
    assert time.slept == []


async def test_the_meter_counts(local: LocalStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    await asyncio.to_thread(source.write_bytes, b"x" * 1000)
    use, ticks = StoreUse(), itertools.count()
    faulty = FaultyStore(local, [Rule("put", "*", 2, Fail()), Rule("get", "*", 2, Truncate(1))])
    store = MeteredStore(faulty, use, clock=lambda: float(next(ticks)))
    await store.put("a", b"12345")
    await store.create("b", b"123")
    await store.put_file("c", source)
    assert (use.bytes_in, use.bytes_out) == (0, 1008)
    with pytest.raises(StoreUnavailable):
        await store.put("a", b"12345")
    assert use.bytes_out == 1008
    await store.get("a")
    await store.get("a")
    await store.get_range("c", 0, 10)
    with (tmp_path / "target").open("wb") as target:
        await store.get_range_to("c", 0, 100, target.fileno())
    assert (use.bytes_in, use.bytes_out) == (5 + 1 + 10 + 100, 1008)
    with pytest.raises(ObjectNotFound):
        await store.stat("absent")
    with pytest.raises(FileNotFoundError):
        await store.put_file("a", tmp_path / "absent")
    assert dict(use.operations) == {
        "put": 2, "create": 1, "put_file": 1, "get": 2, "get_range": 1, "get_range_to": 1,
        "stat": 1,
    }  # fmt: skip
    assert dict(use.errors) == {("put", "StoreUnavailable"): 1, ("stat", "ObjectNotFound"): 1}
    assert use.seconds["put"] == 2.0
    assert use.in_flight == 0


async def test_scripted_faults_of_reads(local: LocalStore, tmp_path: Path) -> None:
    await local.put("packs/a", b"\x00\x01\x02\x03")
    script = [
        Rule("get", "packs/*", 2, FlipBit(9)),
        Rule("get", "packs/*", 3, Truncate(2)),
        Rule("get", "packs/*", 4, LoseAnswer(ShortObject("mine"))),
        Rule("get_range*", "packs/*", 1, FlipBit(0)),
        Rule("get_range*", "packs/*", 2, Truncate(1)),
        Rule("get_range*", "packs/*", 3, FlipBit(0)),
        Rule("get_range*", "packs/*", 4, Truncate(1)),
    ]
    store = FaultyStore(local, script)
    assert await store.get("packs/a") == b"\x00\x01\x02\x03"
    assert await store.get("packs/a") == b"\x00\x03\x02\x03"
    assert await store.get("packs/a") == b"\x00\x01"
    with pytest.raises(ShortObject, match="mine"):
        await store.get("packs/a")
    assert await store.get("packs/a") == b"\x00\x01\x02\x03"
    assert await store.get_range("packs/a", 1, 2) == b"\x00\x02"
    with pytest.raises(ShortObject):
        await store.get_range("packs/a", 1, 2)
    with (tmp_path / "target").open("w+b") as target:
        assert await store.get_range_to("packs/a", 2, 2, target.fileno()) == 2
        assert target.read() == b"\x03\x03"
        with pytest.raises(ShortObject):
            await store.get_range_to("packs/a", 0, 4, target.fileno(), 2)
        target.seek(0)
        assert target.read() == b"\x03\x03\x00"


async def test_scripted_faults_of_writes(local: LocalStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    await asyncio.to_thread(source.write_bytes, b"\x00\x01\x02\x03")
    script = [
        Rule("put", "a", 1, FlipBit(8)),
        Rule("create", "b", 1, Truncate(3)),
        Rule("put_file", "c", 1, Truncate(0)),
        Rule("put*", "d", 0, Fail()),
        Rule("put", "e", 1, LoseAnswer()),
    ]
    store = FaultyStore(local, script)
    await store.put("a", b"\x00\x01")
    await store.create("b", b"\x00\x01\x02\x03")
    await store.put_file("c", source)
    for operation in (store.put("d", b""), store.put_file("d", source), store.put("e", b"there")):
        with pytest.raises(StoreUnavailable):
            await operation
    assert [(s.name, await local.get(s.name)) async for s in local.list("")] == [
        ("a", b"\x00\x00"),
        ("b", b"\x00\x01\x02"),
        ("c", b""),
        ("e", b"there"),
    ]
    await store.put_file("c", source)
    assert await local.get("c") == b"\x00\x01\x02\x03"


async def test_the_first_rule_that_applies_wins_and_all_count(local: LocalStore) -> None:
    script = [
        Rule("stat", "a", 2, Fail(StoreUnavailable("first"))),
        Rule("*", "*", 2, Fail(StoreUnavailable("second"))),
        Rule("stat", "*", 3, Fail(StoreUnavailable("third"))),
    ]
    store = FaultyStore(local, script)
    await local.put("a", b"data")
    await store.stat("a")
    with pytest.raises(StoreUnavailable, match="first"):
        await store.stat("a")
    with pytest.raises(StoreUnavailable, match="third"):
        await store.stat("a")
    await store.stat("a")
    assert store.calls == [("stat", "a")] * 4
