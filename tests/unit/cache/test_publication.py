"""Publishing beside collections: what may have been condemned is not named."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.catalog import Catalog
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.publication import CONFLICTS, PacksCollected, publish
from buildsvc.errors import HeadConflict
from tests.unit.cache.actors import KEYS, LAG, Bucket, Hand, collect, item
from tests.unit.cache.collecting import (
    LAST,
    collected,
    generations,
    names,
    play,
    stalled,
    writer,
)
from tests.unit.cache.fakes import MemoryStore, make_root

KEY, OTHER = KEYS[0], KEYS[2]


async def test_a_key_is_known_before_its_first_head() -> None:
    bucket = Bucket()
    actor = await stalled(bucket, writer(KEY, {1}).work, f"put {KEY.object_name}")
    await actor.step()
    # What has begun is asked for after that.
    assert await actor.before("list collections/log/")
    assert bucket.get(KEY.object_name) == KEY.text.encode()
    await actor.finish()
    assert len(await generations(bucket, KEY)) == 1


@pytest.mark.parametrize("moment", ["put packs", "put roots", "create keys"])
async def test_a_writer_that_stalled_while_its_packs_were_collected(moment: str) -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    slow = await stalled(bucket, writer(KEY, {2}).work, moment)
    await play(bucket, writer(KEY, {3}, {1}).work)
    await collected(bucket)
    await slow.finish()
    newest = (await generations(bucket, KEY))[0]
    assert (newest.items, newest.missing) == ({1, 2}, set())
    assert newest.head.collection == 1


@pytest.mark.parametrize("moment", ["put packs", "put keys", "create keys"])
async def test_the_first_generation_of_a_key(moment: str) -> None:
    """It restored another key's, which was superseded and collected meanwhile."""
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    slow = await stalled(bucket, writer(OTHER, {2}, fallback=KEY).work, moment)
    await play(bucket, writer(KEY, {3}, {1}).work)
    await collected(bucket)
    await slow.finish()
    assert [(one.items, one.missing) for one in await generations(bucket, OTHER)] == [
        ({1, 2}, set())
    ]


async def test_a_key_that_lists_do_not_show_yet() -> None:
    """The collection waits until it has to be listed, for it is not asked for by name."""
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    bucket.lag = LAG
    bucket.now += LAG
    slow = await stalled(bucket, writer(OTHER, {2}, fallback=KEY).work, "create keys")
    await play(bucket, writer(KEY, {3}, {1}).work)
    await play(bucket, lambda hand: collect(hand, LAST, settle=LAG))
    await slow.finish()
    assert [(one.items, one.missing) for one in await generations(bucket, OTHER)] == [
        ({1, 2}, set())
    ]


async def test_what_the_newest_generation_names_is_not_stored_again() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1, 2, 3}).work)
    await play(bucket, writer(OTHER, {5}).work)
    await play(bucket, writer(OTHER, {6}, {5}).work)
    slow = await stalled(bucket, writer(KEY, {4}).work, "put packs")
    await collected(bucket)
    before = names(bucket, "packs/")
    await slow.finish()
    # Once before it knew of the collection, once after.
    assert len(names(bucket, "packs/") - before) == 2
    assert before <= names(bucket, "packs/")
    assert (await generations(bucket, KEY))[0].items == {1, 2, 3, 4}


async def test_what_the_restored_key_still_names_is_not_stored_again() -> None:
    """Else a branch's first pod, which has not fetched all of it, could publish nothing."""
    bucket = Bucket()
    await play(bucket, writer(KEY, {1, 2, 3}).work)
    await play(bucket, writer(KEYS[3], {5}).work)
    await play(bucket, writer(KEYS[3], {6}, {5}).work)
    slow = await stalled(bucket, writer(OTHER, {4}, fallback=KEY).work, "put packs")
    await collected(bucket)
    before = names(bucket, "packs/")
    await slow.finish()
    assert len(names(bucket, "packs/") - before) == 2
    (published,) = await generations(bucket, OTHER)
    assert (published.items, published.missing) == ({1, 2, 3, 4}, set())


async def test_what_is_not_on_disk_is_left_out() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    slow = await stalled(bucket, writer(OTHER, {2}, fallback=KEY, complete=False).work, "put roots")
    await play(bucket, writer(KEY, {3}, {1}).work)
    await collected(bucket)
    await slow.finish()
    assert [(one.items, one.missing) for one in await generations(bucket, OTHER)] == [({2}, set())]


async def test_after_a_head_that_cannot_be_read_the_log_of_collections_counts() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    slow = await stalled(bucket, writer(KEY, {2}).work, "put roots")
    await play(bucket, writer(KEY, {3}, {1}).work)
    await collected(bucket)
    bucket.put(max(names(bucket, KEY.heads_prefix)), b"?")
    await slow.finish()
    newest = (await generations(bucket, KEY))[0]
    assert (newest.items, newest.missing, newest.head.collection) == ({1, 2}, set(), 1)


async def test_a_root_has_another_name_after_a_collection() -> None:
    one = writer(KEY, ())
    assert one.build(1).SerializeToString() != one.build(2).SerializeToString()


async def test_who_was_asleep_for_a_day_looks_whether_its_head_is_the_newest() -> None:
    """A collection may have deleted the head that was there before."""
    bucket = Bucket()
    for number in range(6):
        await play(bucket, writer(KEY, {number}, range(number)).work)
    late = writer(KEY, {7}, range(6))
    hours = iter([0.0, 25.0, 50.0, 50.0])

    async def work(hand: Hand) -> None:
        await late.upload(hand)
        log = GenerationLog(hand, KEY)
        await publish(log, late.catalog, late.build, clock=lambda: next(hours) * 3600)

    late.items = {item(7)}
    slow = await stalled(bucket, work, "create keys")
    await play(bucket, writer(KEY, {8}).work)
    await play(bucket, writer(KEY, {9}, {8}).work)
    bucket.delete(KEY.head_name(7))
    await slow.finish()
    newest = (await generations(bucket, KEY))[0]
    assert (newest.head.number, newest.items) == (9, {7})


async def test_others_win_each_time() -> None:
    tries = []

    class Losing(GenerationLog):
        async def publish(self, *_: object, **__: object) -> Generation:
            tries.append(1)
            raise HeadConflict("by the test")

    one = writer(KEY, ())

    async def work(hand: Hand) -> None:
        with pytest.raises(HeadConflict):
            await publish(Losing(hand, KEY), one.catalog, one.build)

    await play(Bucket(), work)
    assert len(tries) == CONFLICTS


def _same(root: cache_pb2.Root, _: int) -> cache_pb2.Root:
    return root


async def test_what_a_publication_costs(tmp_path: Path) -> None:
    """A build's end waits for nobody, but a pod does that ends after it."""
    store = MemoryStore()
    log = GenerationLog(store, KEY)
    for first in (True, False):
        root = await asyncio.to_thread(make_root, tmp_path, marker=b"first" if first else b"")
        catalog = Catalog.from_root(root)
        store.calls.clear()
        await publish(log, catalog, partial(_same, root))
        more = {"list": 1, "stat": 1, "put": 1} if first else {"get": 1}
        expected = Counter({"list": 1, "stat": 1, "put": 1, "create": 1}) + Counter(more)
        assert store.calls == expected


def test_the_error_can_be_made_again_from_its_text() -> None:
    error = PacksCollected.of(frozenset({b"p"}), 3)
    assert error.packs == {b"p"}
    assert error.collection == 3
    assert PacksCollected(*error.args).packs == frozenset()
