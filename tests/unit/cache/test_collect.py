"""A collection: what it deletes, what it spares, and how it goes on after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.collect import Collector
from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.keys import LAST_NUMBER, CacheKey
from buildsvc.cache.leases import MAX_TERM, Lease
from buildsvc.cache.retention import Plan, Policy
from buildsvc.cache.roots import root_name
from buildsvc.cache.signing import SigningKey, VerifyKeys
from buildsvc.errors import (
    CorruptObject,
    StoreRefused,
    StoreUnavailable,
    UnsupportedFormat,
    UntrustedHead,
)
from buildsvc.store.contract import MAX_GET, ObjectStat
from tests.unit.cache.actors import KEYS, Actor, Bucket, Hand, Way, Work, collect, item
from tests.unit.cache.collecting import LAST, collected, generations, names, play, stalled, writer

KEY, OTHER = KEYS[0], KEYS[2]
DAY = 24 * 3600.0


async def two_generations(bucket: Bucket) -> None:
    await play(bucket, writer(KEY, {1}).work)
    await play(bucket, writer(KEY, {2}, {1}).work)


def collection(policy: Policy = LAST) -> Work:
    return lambda hand: collect(hand, policy, settle=0)


def with_collector(use: Callable[[Collector], Awaitable[object]], policy: Policy = LAST) -> Work:
    async def work(hand: Hand) -> None:
        logs = {key: GenerationLog(hand, key) for key in KEYS}
        await use(Collector(hand, logs.__getitem__, policy, settle=0, sleep=hand.sleep))

    return work


async def test_what_is_superseded_goes_and_the_newest_stays() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    await collected(bucket)
    assert len(names(bucket, "packs/")) == len(names(bucket, "roots/")) == 1
    (kept,) = await generations(bucket, KEY)
    assert (kept.items, kept.missing) == ({2}, set())
    assert (kept.head.number, kept.head.repeats, kept.head.oldest_kept) == (3, 2, 2)
    assert names(bucket, "collections/") == {
        "collections/clock",
        "collections/log/00000000000000000001",
    }


async def test_a_second_collection_finds_nothing_to_do() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    await collected(bucket)
    before = set(bucket.objects)
    await collected(bucket)
    assert set(bucket.objects) == before


async def test_a_plan_changes_nothing() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    before = dict(bucket.objects)
    plans: list[Plan] = []

    async def plan(collector: Collector) -> None:
        plans.append(await collector.plan())

    await play(bucket, with_collector(plan))
    del bucket.objects["collections/clock"]
    assert bucket.objects == before
    assert (len(plans[0].packs), len(plans[0].roots)) == (32, 32)
    assert plans[0].size > 0
    (key,) = plans[0].keys
    assert (key.key, key.oldest_kept, key.kept, key.dropped) == (KEY.text, 2, 1, 1)


async def counted(bucket: Bucket, work: Work) -> int:
    actor = Actor(bucket, "", work)
    await actor.settled()
    steps = 0
    while not actor.done:
        await actor.step()
        steps += 1
    return steps


@pytest.mark.parametrize("way", ["crash", "lose", "fail"])
async def test_it_may_end_at_each_moment(way: Way | str) -> None:
    bucket = Bucket()
    await two_generations(bucket)
    await play(bucket, writer(OTHER, {3}).work)
    start = dict(bucket.objects)
    steps = await counted(bucket, collection())
    assert steps > 20
    for last in range(steps):
        bucket.objects = dict(start)
        actor = Actor(bucket, "", collection())
        await actor.settled()
        for _ in range(last):
            await actor.step()
        if way == "crash":
            await actor.crash()
        else:
            await actor.step(0, "lose" if way == "lose" else "fail")
            await actor.finish()
        for key, items in ((KEY, {2}), (OTHER, {3})):
            newest = (await generations(bucket, key))[0]
            assert (newest.items, newest.missing) == (items, set()), last
        await collected(bucket)
        assert len(names(bucket, "packs/")) == len(names(bucket, "roots/")) == 2, last
        assert not names(bucket, "collections/condemned/"), last


@pytest.mark.parametrize(
    "moment", ["create collections/log", "sleep", "list keys/", "create keys/", "list leases/"]
)
async def test_what_is_published_after_the_plan_was_made(moment: str) -> None:
    """The plan is to delete its packs, which no generation named by then."""
    bucket = Bucket()
    await two_generations(bucket)
    slow = await stalled(bucket, writer(KEY, {3}).work, "create keys/")
    one = await stalled(bucket, collection(), "create collections/log")
    assert await one.before(moment)
    await slow.finish()
    await one.finish()
    newest = (await generations(bucket, KEY))[0]
    assert (newest.items, newest.missing) == ({2, 3}, set())


@pytest.mark.parametrize("moment", ["list keys/", "put roots/"])
async def test_what_is_stored_after_the_beginning_is_not_in_the_plan(moment: str) -> None:
    """Its writer knows of the collection, so it may be published after the fence."""
    bucket = Bucket()
    await two_generations(bucket)
    one = await stalled(bucket, collection(), "create collections/log")
    await one.step()
    slow = await stalled(bucket, writer(KEY, {3}).work, "put packs")
    await slow.step()
    assert await slow.before(moment)
    await one.finish()
    await slow.finish()
    newest = (await generations(bucket, KEY))[0]
    assert (newest.items, newest.missing) == ({2, 3}, set())
    assert newest.head.collection == 1


async def test_a_root_is_never_stored_again_under_a_name_that_may_be_condemned() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1, 2}).work)
    # Its root is stored, and names nothing new.
    slow = await stalled(bucket, writer(KEY, (), {1}).work, "create keys")
    one = await stalled(bucket, collection(), "create collections/condemned")
    await slow.finish()
    await one.finish()
    newest = (await generations(bucket, KEY))[0]
    assert (newest.items, newest.missing) == ({2}, set())


async def test_what_nobody_has_published_is_garbage_when_it_is_old() -> None:
    bucket = Bucket()
    await play(bucket, writer(KEY, {1}).work)
    dead = await stalled(bucket, writer(KEY, {2}).work, "create keys")
    await dead.crash()
    policy = Policy(min_age=DAY)
    bucket.now += DAY - 100
    await collected(bucket, policy)
    assert (len(names(bucket, "packs/")), len(names(bucket, "roots/"))) == (2, 2)
    bucket.now += 200
    await collected(bucket, policy)
    assert (len(names(bucket, "packs/")), len(names(bucket, "roots/"))) == (1, 1)


def numbers(bucket: Bucket, prefix: str) -> list[int]:
    return sorted(int(name[-20:]) for name in names(bucket, prefix))


async def test_heads_that_nobody_reads_go_a_day_later() -> None:
    bucket = Bucket()
    for number in range(11):
        await play(bucket, writer(KEY, {number}, range(number)).work)
    await collected(bucket)
    await collected(bucket)
    assert numbers(bucket, KEY.heads_prefix) == list(range(1, 13))
    bucket.now += DAY + 1
    await collected(bucket)
    # The fence repeats 11. A search for 12 looks at 1, 2, 4, 8 and 12.
    assert numbers(bucket, KEY.heads_prefix) == [1, 2, 4, 8, 11, 12]
    assert [one.items for one in await generations(bucket, KEY)] == [{10}]
    await play(bucket, writer(KEY, {11}, {10}).work)
    assert numbers(bucket, KEY.heads_prefix)[-1] == 13


async def test_fences_of_a_key_that_is_quiet_go_too() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    for number in range(10):
        await play(bucket, writer(OTHER, {number}, range(number)).work)
        await collected(bucket)
    assert numbers(bucket, KEY.heads_prefix) == list(range(1, 13))
    bucket.now += DAY + 1
    await collected(bucket)
    # The last one repeats 2.
    assert numbers(bucket, KEY.heads_prefix) == [1, 2, 4, 8, 12]
    assert [one.items for one in await generations(bucket, KEY)] == [{2}]
    # There is no gap that a collection would have to close.
    await play(bucket, writer(OTHER, {11}, range(11)).work)
    await collected(bucket)
    assert numbers(bucket, KEY.heads_prefix) == [1, 2, 4, 8, 12, 13]


async def test_heads_below_what_was_published_after_all_was_dropped() -> None:
    bucket = Bucket()
    for number in range(6):
        await play(bucket, writer(KEY, {number}, range(number)).work)
    bucket.now += DAY + 1
    await collected(bucket, Policy(max_age=DAY, min_age=0))
    assert await generations(bucket, KEY) == []
    await play(bucket, writer(KEY, {1}).work)
    bucket.now += DAY + 1
    await collected(bucket)
    assert numbers(bucket, KEY.heads_prefix) == [1, 2, 4, 7, 8]


async def test_heads_of_a_key_that_nobody_uses_or_can_name() -> None:
    bucket = Bucket()
    for key in (KEY, OTHER):
        for number in range(6):
            await play(bucket, writer(key, {number}, range(number)).work)
    bucket.delete(OTHER.object_name)
    for name in names(bucket, OTHER.heads_prefix):
        bucket.put(name, b"?")
    policy = Policy(max_age=DAY, min_age=0)
    for _ in range(3):
        bucket.now += DAY + 1
        await collected(bucket, policy)
    assert not names(bucket, "packs/") | names(bucket, "roots/")
    for key in (KEY, OTHER):
        assert numbers(bucket, key.heads_prefix) == [1, 2, 4, 6, 7]


async def test_entries_of_old_collections_go_too() -> None:
    bucket = Bucket()
    for number in range(11):
        await play(bucket, writer(KEY, {number}, range(number)).work)
        await collected(bucket)
    assert numbers(bucket, "collections/log/") == list(range(1, 11))
    bucket.now += DAY + 1
    await collected(bucket)
    assert numbers(bucket, "collections/log/") == [1, 2, 4, 8, 10]
    await play(bucket, writer(KEY, {11}, range(11)).work)
    await collected(bucket)
    assert numbers(bucket, "collections/log/")[-1] == 11


@pytest.mark.parametrize("number", ["9" * 20, f"{LAST_NUMBER + 1:020d}", "0" * 20])
async def test_numbers_out_of_range_are_none(number: str) -> None:
    """Somebody else has put them there."""
    bucket = Bucket()
    await two_generations(bucket)
    bucket.put(f"{KEY.heads_prefix}{number}", b"?")
    bucket.put(f"collections/log/{number}", b"?")
    bucket.put(f"collections/condemned/{number}", b"?")
    await collected(bucket)
    assert len(names(bucket, "packs/")) == 1
    await play(bucket, writer(OTHER, {3}).work)
    assert [one.head.collection for one in await generations(bucket, OTHER)] == [1]


async def test_after_the_last_number_no_collection_begins() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    bucket.put(f"collections/log/{LAST_NUMBER:020d}", b"?")

    async def use(collector: Collector) -> None:
        with pytest.raises(CorruptObject, match="out of range"):
            await collector.collect(await collector.plan())

    await play(bucket, with_collector(use))
    assert len(names(bucket, "packs/")) == 2


async def test_what_is_no_list_of_condemned_objects_is_no_hindrance() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    later = cache_pb2.Condemned(format_version=2).SerializeToString()
    short = cache_pb2.Condemned(format_version=1, packs=b"p").SerializeToString()
    for number, data in enumerate((b"?", later, short), start=1):
        bucket.put(f"collections/condemned/{number:020d}", data)
    await collected(bucket)
    assert len(names(bucket, "packs/")) == 1
    # A later version's is left for it.
    assert numbers(bucket, "collections/condemned/") == [2]


@pytest.mark.parametrize("number", [1, 2])
async def test_a_list_of_condemned_objects_that_somebody_else_has_put_there(number: int) -> None:
    """Pods may not delete: the collector does not do it for them."""
    bucket = Bucket()
    await two_generations(bucket)
    await collected(bucket)
    packs = [bytes.fromhex(name[-64:]) for name in names(bucket, "packs/")]
    roots = [bytes.fromhex(name[-64:]) for name in names(bucket, "roots/")]
    forged = cache_pb2.Condemned(format_version=1, packs=b"".join(packs), roots=b"".join(roots))
    bucket.put(f"collections/condemned/{number:020d}", forged.SerializeToString())
    await play(bucket, writer(KEY, {3}, {2}).work)
    await collected(bucket)
    assert [(one.items, one.missing) for one in await generations(bucket, KEY)] == [({3}, set())]


async def test_what_is_young_is_not_deleted_for_whoever_has_condemned_it() -> None:
    """A build under way has stored it, and will name it."""
    bucket = Bucket()
    slow = await stalled(bucket, writer(KEY, {1}).work, "put roots")
    packs = [bytes.fromhex(name[-64:]) for name in names(bucket, "packs/")]
    forged = cache_pb2.Condemned(format_version=1, packs=b"".join(packs))
    bucket.put("collections/condemned/00000000000000000001", forged.SerializeToString())
    await collected(bucket, Policy(min_age=DAY))
    await slow.finish()
    assert [(one.items, one.missing) for one in await generations(bucket, KEY)] == [({1}, set())]


async def test_two_at_once_do_the_same() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    one = await stalled(bucket, collection(), "create collections/condemned")
    await collected(bucket)
    await one.finish()
    assert [one.items for one in await generations(bucket, KEY)] == [{2}]
    assert len(names(bucket, "packs/")) == 1


async def test_the_earlier_one_gives_up_when_a_later_one_has_begun() -> None:
    """Else it could condemn what the later one has let a writer name."""
    bucket = Bucket()
    await two_generations(bucket)
    one = await stalled(bucket, collection(), "create collections/log")
    await one.step()
    # All keys are fenced.
    assert await one.before("list leases/")
    first = bucket.get("collections/log/00000000000000000001")
    bucket.put("collections/log/00000000000000000002", first)
    await one.finish()
    assert not names(bucket, "collections/condemned/")
    assert len(names(bucket, "packs/")) == 2


async def test_what_is_young_by_the_stores_clock_is_spared() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    policy = Policy(keep_last=1, min_age=DAY)
    bucket.now += DAY - 100
    await collected(bucket, policy)
    assert len(names(bucket, "packs/")) == 2
    bucket.now += 200
    await collected(bucket, policy)
    assert len(names(bucket, "packs/")) == 1


async def test_a_lease_keeps_a_generation_until_its_term_ends() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    first = (await generations(bucket, KEY))[1]

    async def lease(hand: Hand) -> None:
        await Lease(hand, first.head.root, 100).renew()

    await play(bucket, lease)
    bucket.now += 99
    await collected(bucket)
    assert len(names(bucket, "packs/")) == 2
    bucket.now += 2
    await collected(bucket)
    assert len(names(bucket, "packs/")) == 1
    bucket.now += MAX_TERM
    await collected(bucket)
    assert not names(bucket, "leases/")


async def test_a_key_that_nobody_uses_any_more() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    bucket.now += 31 * DAY
    policy = Policy(max_age=30 * DAY, min_age=0)
    await collected(bucket, policy)
    assert await generations(bucket, KEY) == []
    assert not names(bucket, "packs/") | names(bucket, "roots/")
    await play(bucket, writer(KEY, {4}).work)
    assert [one.items for one in await generations(bucket, KEY)] == [{4}]


async def test_many_collections_of_a_quiet_key() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    for number in range(10):
        await play(bucket, writer(OTHER, {number}, range(number)).work)
        await collected(bucket)
    kept = await generations(bucket, KEY)
    assert [(one.items, one.head.repeats, one.head.oldest_kept) for one in kept] == [({2}, 2, 2)]
    assert kept[0].head.number > 10


async def refused(bucket: Bucket, error: type[Exception], match: str) -> None:
    before = dict(bucket.objects)

    async def use(collector: Collector) -> None:
        with pytest.raises(error, match=match):
            await collector.plan()

    await play(bucket, with_collector(use))
    bucket.objects.pop("collections/clock")
    before.pop("collections/clock", None)
    assert bucket.objects == before


def change(bucket: Bucket, name: str, **fields: object) -> None:
    head = cache_pb2.Head.FromString(bucket.get(name))
    for field, value in fields.items():
        setattr(head, field, value)
    bucket.put(name, head.SerializeToString())


async def test_a_generation_of_a_later_format_may_name_anything() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    change(bucket, KEY.head_name(2), format_version=2)
    await refused(bucket, UnsupportedFormat, "unknown format")


async def test_the_newest_that_can_be_read_is_repeated() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    bucket.put(KEY.head_name(2), b"?")
    await play(bucket, writer(OTHER, {5}).work)
    await collected(bucket)
    (kept,) = await generations(bucket, KEY)
    assert (kept.items, kept.missing, kept.head.repeats) == ({1}, set(), 1)
    assert len(names(bucket, "packs/")) == 2


class Flipping(Hand):
    """Its first answer for ``name`` is not what is there."""

    name = ""
    at = 0

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        data = bytearray(await super().get(name, limit=limit))
        if name == self.name:
            self.name = ""
            data[self.at] ^= 1
        return bytes(data)


@pytest.mark.parametrize("what", ["root", "head", "key", "signature"])
async def test_a_bad_answer_is_no_reason_to_delete(what: str) -> None:
    bucket, own = Bucket(), key_pair()
    verify = VerifyKeys({(KEY.tenant, KEY.trust_domain): [own.verify_key]})
    signed = what == "signature"

    def log(hand: Hand, key: CacheKey) -> GenerationLog:
        return GenerationLog(hand, key, signing=own, verify=verify if signed else None)

    async def publish(hand: Hand) -> None:
        # The text of the key is told by another object too.
        await log(hand, KEY).announce()
        for number in (1, 2):
            one = writer(KEY, {number})
            one.items = {item(number)}
            await one.upload(hand)
            await log(hand, KEY).publish(one.build(0), parent=await log(hand, KEY).newest())

    await play(bucket, publish)
    hand = Flipping(bucket)
    newest = KEY.head_name(2)
    head = bucket.get(newest)
    root = cache_pb2.Head.FromString(head).root
    hand.name = root_name(root) if what == "root" else newest
    hand.at = {"key": head.index(KEY.text.encode()), "signature": -1}.get(what, 0)
    collector = Collector(hand, lambda key: log(hand, key), LAST)

    async def serve() -> None:
        while True:
            await hand.asked.wait()
            hand.grant(0, "do")

    serving = asyncio.create_task(serve())
    with pytest.raises(StoreUnavailable, match="not the same each time"):
        await collector.plan()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_key_that_nobody_can_name() -> None:
    bucket = Bucket()
    await two_generations(bucket)
    bucket.delete(KEY.object_name)
    for number in (1, 2):
        bucket.put(KEY.head_name(number), b"?")
    await collected(bucket)
    assert bucket.get(KEY.head_name(3)) == b""
    assert not names(bucket, "packs/")
    await play(bucket, writer(KEY, {1}).work)
    assert [one.head.collection for one in await generations(bucket, KEY)] == [1]


@pytest.mark.parametrize("planted", [9, LAST_NUMBER])
async def test_nobody_publishes_into_a_gap(planted: int) -> None:
    """A head that somebody has put far above the log's end does not hide the end."""
    bucket = Bucket()
    await two_generations(bucket)
    slow = await stalled(bucket, writer(KEY, {3}).work, "create keys")
    bucket.put(KEY.head_name(planted), b"?")
    await collected(bucket)
    assert KEY.head_name(3) in bucket.objects
    # Above the last number there is no place for anybody.
    with suppress(CorruptObject):
        await slow.finish()
    assert not [one for one in await generations(bucket, KEY) if one.missing]


def key_pair() -> SigningKey:
    return SigningKey(Ed25519PrivateKey.generate())


async def test_signed_logs_are_continued_with_the_collectors_own_key() -> None:
    bucket, pods, own = Bucket(), key_pair(), key_pair()
    scope = (KEY.tenant, KEY.trust_domain)
    verify = VerifyKeys({scope: [pods.verify_key, own.verify_key]})
    found: list[tuple[int, str]] = []

    async def work(hand: Hand) -> None:
        pod = GenerationLog(hand, KEY, signing=pods, verify=verify)
        one = writer(KEY, {1})
        for _ in range(2):
            one.packs_again()
            await one.upload(hand)
            newest = await pod.newest()
            await pod.publish(one.build(0), parent=newest)
        collector = Collector(
            hand,
            lambda key: GenerationLog(hand, key, signing=own, verify=verify),
            LAST, settle=0, sleep=hand.sleep,
        )  # fmt: skip
        await collector.collect(await collector.plan())
        found.extend(
            [
                (generation.number, generation.head.signing_key_id)
                async for generation in pod.candidates(lambda _, error: pytest.fail(str(error)))
            ]
        )

    await play(bucket, work)
    assert found == [(3, own.id)]
    assert len(names(bucket, "packs/")) == 1


async def test_a_key_of_which_no_head_is_trusted_is_not_taken_for_garbage() -> None:
    bucket = Bucket()
    await two_generations(bucket)

    async def work(hand: Hand) -> None:
        collector = Collector(
            hand, lambda key: GenerationLog(hand, key, verify=VerifyKeys({})), LAST
        )
        with pytest.raises(UntrustedHead):
            await collector.plan()

    await play(bucket, work)


async def test_a_store_that_tells_no_times() -> None:
    class Timeless(Hand):
        async def stat(self, name: str) -> ObjectStat:
            found = await super().stat(name)
            return ObjectStat(found.name, found.size, None)

    async def work(hand: Hand) -> None:
        collector = Collector(hand, lambda key: GenerationLog(hand, key), LAST)
        with pytest.raises(StoreRefused, match="when objects were written"):
            await collector.plan()

    bucket = Bucket()
    hand = Timeless(bucket)
    task = asyncio.ensure_future(work(hand))
    while not task.done():
        await asyncio.sleep(0)
        if hand.waiting:
            hand.grant(0, "do")
    await task


@pytest.mark.parametrize(
    "fields",
    [
        {"oldest_kept": 4},
        {"repeats": 0},
        {"repeats": 3},
        {"root": b"", "repeats": 2},
        {"oldest_kept": 3, "repeats": 2},
        {"oldest_kept": 0},
    ],
)
async def test_a_head_of_a_collection_that_cannot_be(fields: dict[str, object]) -> None:
    bucket = Bucket()
    await two_generations(bucket)
    await collected(bucket)
    change(bucket, KEY.head_name(3), **fields)

    async def work(hand: Hand) -> None:
        with pytest.raises(CorruptObject, match=r"keeps or repeats|root, nonce or parent"):
            await GenerationLog(hand, KEY).read(3)

    await play(bucket, work)
