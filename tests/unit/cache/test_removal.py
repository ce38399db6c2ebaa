"""A head that gives up what a key has, beside writers and collections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.packs import pack_name
from buildsvc.cache.retention import Policy
from tests.unit.cache.actors import KEYS, Bucket, collect, remove
from tests.unit.cache.collecting import collected, generations, names, play, stalled, writer

KEY, OTHER = KEYS[0], KEYS[2]


async def removed(bucket: Bucket, key: CacheKey = KEY) -> None:
    await play(bucket, lambda hand: remove(hand, key))


async def test_nothing_of_the_key_is_found_and_nothing_is_deleted() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    await play(bucket, writer(OTHER, {2}).work)
    before = dict(bucket.objects)
    await removed(bucket)
    assert await generations(bucket, KEY) == []
    (other,) = await generations(bucket, OTHER)
    assert (other.items, other.missing) == ({2}, set())
    assert bucket.objects.keys() - before.keys() == {KEY.head_name(2)}
    assert before.items() <= bucket.objects.items()


async def test_what_it_had_is_collected() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    await removed(bucket)
    await collected(bucket)
    assert not names(bucket, "packs/")
    assert not names(bucket, "roots/")


async def test_a_writer_that_had_restored_publishes_after_it() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    actor = await stalled(bucket, writer(KEY, {2}).work, "list collections/log")
    await removed(bucket)
    await actor.finish()
    (published,) = await generations(bucket, KEY)
    assert (published.head.number, published.items, published.missing) == (3, {1, 2}, set())
    await collected(bucket)
    (kept,) = await generations(bucket, KEY)
    assert (kept.items, kept.missing) == ({1, 2}, set())


@pytest.mark.parametrize("moment", ["list collections/log", "put packs", "put roots", "create"])
@pytest.mark.parametrize("first", [removed, collected])
async def test_a_writer_that_stalls_meanwhile_names_nothing_that_is_deleted(
    moment: str, first: Callable[[Bucket], Awaitable[None]]
) -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    actor = await stalled(bucket, writer(KEY, {2}).work, moment)
    if first is collected:
        await play(bucket, writer(KEY, {3}, {1}).work)
        await collected(bucket)
    await removed(bucket)
    await collected(bucket)
    await removed(bucket)
    await actor.finish()
    (published,) = await generations(bucket, KEY)
    assert (published.items, published.missing) == ({1, 2}, set())


async def test_what_is_published_meanwhile_stays() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    for moment in ("get keys", "create keys"):
        actor = await stalled(bucket, lambda hand: remove(hand, KEY), moment)
        await play(bucket, writer(KEY, {2}, {1}).work)
        await actor.finish()
        (kept,) = {found.head.root: found for found in await generations(bucket, KEY)}.values()
        assert kept.items == {2}
        assert kept.missing == set()


async def test_it_continues_a_head_that_it_cannot_read() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    await play(bucket, writer(KEY, {2}, {1}).work)
    await collected(bucket)
    bucket.put(KEY.head_name(3), b"no head")
    await removed(bucket)
    assert await generations(bucket, KEY) == []
    # It says of which collections it knows, as whoever publishes there does.
    assert cache_pb2.Head.FromString(bucket.get(KEY.head_name(4))).collection == 1


async def test_what_a_collection_has_deleted_meanwhile_is_not_kept_again() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    late = await stalled(bucket, lambda hand: remove(hand, KEY), "create keys")
    for number in (2, 3):
        await play(bucket, writer(KEY, {number}, {number - 1}).work)
    await collected(bucket)
    await late.finish()
    newest, *_ = found = await generations(bucket, KEY)
    # It was to keep what was published from number 2 on; the collection has kept number 3.
    assert (newest.head.repeats, newest.head.oldest_kept) == (3, 3)
    assert not any(one.missing for one in found)


async def test_nor_does_a_collection_that_has_decided_before() -> None:
    bucket = Bucket()
    for number in (1, 2, 3):
        await play(bucket, writer(KEY, {number}, {number - 1}).work)
    # It has read the logs, and is about to delete what is no generation's.
    bucket.put(pack_name(bytes(32)), b"")
    keeps_two = Policy(keep_last=2, min_age=0)
    late = await stalled(
        bucket, lambda hand: collect(hand, keeps_two, settle=0), "create collections/log"
    )
    await collected(bucket)
    await late.finish()
    newest, *_ = found = await generations(bucket, KEY)
    assert (newest.head.collection, newest.head.oldest_kept) == (2, 3)
    assert not any(one.missing for one in found)
