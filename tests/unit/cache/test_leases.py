"""Leases are renewed while a pod lives, and hold no longer than they say."""

from __future__ import annotations

from contextlib import suppress

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.leases import MAX_TERM, Lease, ended_leases, leased_roots
from buildsvc.errors import StoreRefused, StoreUnavailable
from tests.unit.cache.actors import Bucket, Hand
from tests.unit.cache.collecting import play
from tests.unit.cache.fakes import MemoryStore

ROOT = b"r" * 32


class Ended(Exception):
    pass


async def test_a_lease_is_renewed_four_times_in_its_term() -> None:
    store = MemoryStore()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        # The first try fails in passing.
        store.refuse = {"put"} if len(slept) == 1 else set()
        if len(slept) == 3:
            raise Ended

    with suppress(Ended):
        await Lease(store, ROOT, 100).hold(sleep)
    assert slept == [25, 25, 25]
    assert store.calls["put"] == 3
    assert len(store.objects) == 1


async def test_a_store_that_takes_none() -> None:
    class Refusing(MemoryStore):
        async def put(self, name: str, data: bytes) -> None:
            raise StoreRefused(f"{name}: {len(data)} bytes")

    with pytest.raises(StoreRefused):
        await Lease(Refusing(), ROOT).hold()


@pytest.mark.parametrize(
    ("term", "age", "holds"),
    [
        (100, 100, True),
        (100, 101, False),
        (10 * MAX_TERM, MAX_TERM, True),
        (10 * MAX_TERM, MAX_TERM + 1, False),
    ],
)
async def test_how_long_it_holds(term: int, age: float, holds: bool) -> None:  # noqa: FBT001
    bucket = Bucket()
    found: list[tuple[set[bytes], int]] = []

    async def work(hand: Hand) -> None:
        await Lease(hand, ROOT, term).renew()
        now = bucket.now + age
        found.append((await leased_roots(hand, now), len(await ended_leases(hand, now))))

    await play(bucket, work)
    assert found == [({ROOT} if holds else set(), int(age > MAX_TERM))]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff" * 9,
        cache_pb2.Lease(root=b"short", term_seconds=9).SerializeToString(),
        # The last of two is what a message has, but nobody reads that far.
        bytes([18, 128, 16]) + bytes(2048) + cache_pb2.Lease(root=ROOT).SerializeToString(),
    ],
    ids=["empty", "none", "short", "large"],
)
async def test_what_is_no_lease(raw: bytes) -> None:
    store = MemoryStore()
    store.objects["leases/x"] = raw
    assert await leased_roots(store, 0.0) == set()


async def test_two_pods_have_two_leases() -> None:
    store = MemoryStore()
    for _ in range(2):
        await Lease(store, ROOT).renew()
    assert len(store.objects) == 2
    store.refuse = {"list"}
    with pytest.raises(StoreUnavailable):
        await leased_roots(store, 0.0)
