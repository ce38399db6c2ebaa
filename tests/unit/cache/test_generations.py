"""The log of a key: the newest is found, one publisher wins, a lost answer is understood."""

from __future__ import annotations

import asyncio
import itertools
import os
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.generations import MAX_HEAD, Generation, GenerationLog
from buildsvc.cache.keys import LAST_NUMBER, CacheKey
from buildsvc.cache.roots import MAX_ROOT, MAX_STORED, root_name
from buildsvc.cache.signing import SigningKey, VerifyKeys
from buildsvc.errors import (
    CacheError,
    CorruptObject,
    DisownedHead,
    HeadConflict,
    KeyMismatch,
    ObjectNotFound,
    StoreRefused,
    StoreUnavailable,
    UnsupportedFormat,
    UntrustedHead,
)
from buildsvc.store.faults import Fail, FaultyStore, Rule
from buildsvc.store.local import LocalStore
from buildsvc.store.open import open_store
from tests.unit.cache.fakes import MemoryStore, make_root

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from buildsvc.store.contract import Store
    from tests.minio import Minio

KEY = CacheKey("acme", "protected", "app/main", "linux-amd64", "buildkit-0.33")
OTHER = CacheKey("acme", "protected", "app/other", "linux-amd64", "buildkit-0.33")
NOW = 1_800_000_000_000_000_000


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def log(store: MemoryStore) -> GenerationLog:
    return GenerationLog(store, KEY, now_ns=lambda: NOW)


@pytest.fixture
def root(tmp_path: Path) -> cache_pb2.Root:
    return make_root(tmp_path)


async def publish_many(log: GenerationLog, root: cache_pb2.Root, count: int) -> list[Generation]:
    generations: list[Generation] = []
    for _ in range(count):
        parent = generations[-1] if generations else None
        generations.append(await log.publish(root, parent=parent))
    return generations


async def walk(log: GenerationLog) -> tuple[list[int], list[tuple[int, type[CacheError]]]]:
    """The numbers of the candidates, and what was skipped."""
    skipped: list[tuple[int, type[CacheError]]] = []
    found = [
        generation.number
        async for generation in log.candidates(
            lambda number, error: skipped.append((number, type(error)))
        )
    ]
    return found, skipped


async def test_an_empty_log(log: GenerationLog) -> None:
    assert await log.newest() is None
    assert await log.newest_number() == 0
    assert await walk(log) == ([], [])


async def test_what_is_published_is_read(log: GenerationLog, root: cache_pb2.Root) -> None:
    first, second = await publish_many(log, root, 2)
    found = await log.newest()
    assert found == second
    assert (found.number, found.head.parent) == (2, first.digest)
    assert first.head.parent == b""
    assert first.head.nonce != second.head.nonce
    assert found.head.created_unix_ns == NOW
    assert found.head.buildkit_version == "v0.33.1"
    assert (found.head.tenant, found.head.trust_domain) == ("acme", "protected")
    assert await log.read_root(found) == root


async def test_the_root_is_stored_before_the_head(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    store.refuse = {"create"}
    with pytest.raises(StoreUnavailable):
        await log.publish(root, parent=None)
    assert [name.split("/")[0] for name in store.objects] == ["roots"]
    store.refuse = {"put"}
    store.objects.clear()
    with pytest.raises(StoreUnavailable):
        await log.publish(root, parent=None)
    assert store.objects == {}


async def test_what_is_too_large_for_a_head_is_not_even_read(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    await publish_many(log, root, 1)
    store.objects[KEY.head_name(2)] = bytes(MAX_HEAD + 1)
    with pytest.raises(CorruptObject, match=r"head 2: .*too large"):
        await log.read(2)
    assert await walk(log) == ([1], [(2, CorruptObject)])
    with pytest.raises(HeadConflict):
        await log.publish(root, parent=None, number=2)


async def test_what_is_too_large_for_a_root_is_not_read(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    (only,) = await publish_many(log, root, 1)
    store.objects[root_name(only.head.root)] = bytes(MAX_STORED + 1)
    with pytest.raises(CorruptObject, match=r"its root: .*too large"):
        await log.read_root(only)


def test_the_largest_root_can_be_stored() -> None:
    worst = zstandard.ZstdCompressor(level=9).compress(os.urandom(MAX_ROOT))
    assert len(worst) <= MAX_STORED


async def test_heads_that_the_store_does_not_give(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    """Who deletes what nobody can read must not take them for unreadable."""
    await publish_many(log, root, 2)
    rule = Rule("get", KEY.head_name(2), 0, Fail(StoreRefused("HTTP 403")))
    refusing = GenerationLog(FaultyStore(store, [rule]), KEY)
    with pytest.raises(StoreRefused):
        await walk(refusing)
    refused: list[int] = []
    found = refusing.candidates(
        lambda *_: pytest.fail("it is not known to be corrupt"),
        lambda number, _: refused.append(number),
    )
    assert [one.number async for one in found] == [1]
    assert refused == [2]


async def test_keys_have_logs_of_their_own(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    await publish_many(log, root, 2)
    assert await GenerationLog(store, OTHER).newest() is None


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 20])
@pytest.mark.parametrize("shown", [0, 1, 3])
async def test_a_list_that_is_behind(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root, count: int, shown: int
) -> None:
    generations = await publish_many(log, root, count)
    store.listed = [KEY.head_name(number) for number in range(1, min(shown, count) + 1)]
    assert await log.newest() == generations[-1]


@pytest.mark.parametrize("count", [0, 1, 5, 16, 33])
async def test_a_list_that_fails(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root, count: int
) -> None:
    await publish_many(log, root, count)
    store.refuse = {"list"}
    store.calls.clear()
    assert await log.newest_number() == count
    assert store.calls["stat"] <= 12


async def test_a_current_list_costs_one_probe(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    await publish_many(log, root, 9)
    store.calls.clear()
    assert await log.newest_number() == 9
    assert store.calls == {"list": 1, "stat": 1}


async def test_a_long_log_is_not_listed_to_its_end(store: MemoryStore, log: GenerationLog) -> None:
    count = 30_000
    for number in range(1, count + 1):
        store.objects[KEY.head_name(number)] = b""
    assert await log.newest_number() == count
    assert store.calls["stat"] < 40
    assert store.names_listed < 5000


async def test_foreign_names_in_the_list(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    await publish_many(log, root, 1)
    for name in ("1", "x" * 20, "9" * 20, "0" * 20):
        store.objects[KEY.heads_prefix + name] = b"?"
    assert await log.newest_number() == 1


async def test_a_dead_store_is_not_an_empty_one(store: MemoryStore, log: GenerationLog) -> None:
    store.refuse = {"list", "stat", "get"}
    with pytest.raises(StoreUnavailable):
        await log.newest()


def edited(change: Callable[[cache_pb2.Head], object]) -> Callable[[bytes], bytes]:
    def edit(raw: bytes) -> bytes:
        head = cache_pb2.Head.FromString(raw)
        change(head)
        return head.SerializeToString()

    return edit


BAD_HEADS: list[tuple[str, Callable[[bytes], bytes], type[CacheError]]] = [
    ("empty", lambda _: b"", CorruptObject),
    ("half", lambda raw: raw[: len(raw) // 2], CorruptObject),
    ("noise", lambda _: b"\xff" * 64, CorruptObject),
    ("huge", lambda raw: raw + b"\xfa\x07" + b"\x80\x80\x08" + bytes(1 << 17), CorruptObject),
    ("newer", edited(lambda head: setattr(head, "format_version", 2)), UnsupportedFormat),
    ("key", edited(lambda head: setattr(head, "key", OTHER.text)), KeyMismatch),
    ("tenant", edited(lambda head: setattr(head, "tenant", "x")), KeyMismatch),
    ("domain", edited(lambda head: setattr(head, "trust_domain", "forks")), KeyMismatch),
    ("number", edited(lambda head: setattr(head, "number", 4)), KeyMismatch),
    ("root", edited(lambda head: setattr(head, "root", b"")), CorruptObject),
    ("nonce", edited(lambda head: setattr(head, "nonce", bytes(15))), CorruptObject),
    ("parent", edited(lambda head: setattr(head, "parent", bytes(31))), CorruptObject),
]


@pytest.mark.parametrize(
    ("edit", "error"), [row[1:] for row in BAD_HEADS], ids=[row[0] for row in BAD_HEADS]
)
async def test_a_bad_newest_head(
    store: MemoryStore,
    log: GenerationLog,
    root: cache_pb2.Root,
    edit: Callable[[bytes], bytes],
    error: type[CacheError],
) -> None:
    _, second, third = await publish_many(log, root, 3)
    name = KEY.head_name(3)
    store.objects[name] = edit(third.raw)
    with pytest.raises(error):
        await log.newest()
    assert await walk(log) == ([2, 1], [(3, error)])

    with pytest.raises(HeadConflict):
        await log.publish(root, parent=second)
    after = await log.newest_number() + 1
    fresh = await log.publish(root, parent=second, number=after)
    assert await log.newest() == fresh
    assert fresh.number == 4


async def test_heads_truncated_at_every_byte_never_name_another_root(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    (only,) = await publish_many(log, root, 1)
    for end in range(len(only.raw)):
        store.objects[KEY.head_name(1)] = only.raw[:end]
        try:
            found = await log.newest()
        except CacheError:
            continue
        assert found is not None
        assert found.head.root == only.head.root


async def test_a_head_moved_from_another_key(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    theirs = await GenerationLog(store, OTHER).publish(root, parent=None)
    store.objects[KEY.head_name(1)] = theirs.raw
    with pytest.raises(KeyMismatch, match=r"app%2Fmain.*app%2Fother"):
        await log.newest()


async def test_what_a_head_says_of_itself_is_shown_as_text(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    (only,) = await publish_many(log, root, 1)
    said = edited(lambda head: setattr(head, "key", "\x1b[2J\n"))
    store.objects[KEY.head_name(1)] = said(only.raw)
    with pytest.raises(KeyMismatch, match=r"\\x1b\[2J\\n"):
        await log.newest()


async def test_a_planted_last_head(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    await publish_many(log, root, 1)
    store.objects[KEY.head_name(LAST_NUMBER)] = b""
    assert await walk(log) == ([1], [(LAST_NUMBER, CorruptObject)])
    with pytest.raises(CorruptObject, match="out of range"):
        await log.publish(root, parent=None, number=await log.newest_number() + 1)


async def test_a_root_that_is_missing_or_damaged(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    (only,) = await publish_many(log, root, 1)
    name = root_name(only.head.root)
    stored = store.objects[name]
    store.objects[name] = stored[:-1]
    with pytest.raises(CorruptObject):
        await log.read_root(only)
    del store.objects[name]
    with pytest.raises(CorruptObject, match="is missing"):
        await log.read_root(only)


async def test_candidates_go_past_a_gap(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    await publish_many(log, root, 4)
    del store.objects[KEY.head_name(2)]
    assert await walk(log) == ([4, 3, 1], [])
    with pytest.raises(ObjectNotFound):
        await log.read(2)


@pytest.mark.parametrize("shown", [0, 2, None])
async def test_heads_planted_beyond_the_newest_hide_nothing(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root, shown: int | None
) -> None:
    await publish_many(log, root, 5)
    planted = [8, 9, 700, LAST_NUMBER]
    for number in planted:
        store.objects[KEY.head_name(number)] = b""
    if shown is not None:
        store.listed = [KEY.head_name(number) for number in (*range(1, shown + 1), *planted)]
    expected = [(number, CorruptObject) for number in reversed(planted)]
    assert await walk(log) == ([5, 4, 3, 2, 1], expected)


async def test_a_store_that_shows_what_it_does_not_have(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    await publish_many(log, root, 1)
    store.listed = [KEY.head_name(number) for number in (1, 5, 6)]
    assert await walk(log) == ([1], [])


async def test_a_lost_answer_is_a_success(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    store.lose = {"create"}
    generation = await log.publish(root, parent=None)
    assert await log.newest() == generation


async def test_a_lost_answer_with_somebody_elses_head(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    theirs = await log.publish(root, parent=None)
    store.refuse = {"create"}
    with pytest.raises(HeadConflict):
        await log.publish(root, parent=None)
    assert store.objects[KEY.head_name(1)] == theirs.raw


async def test_a_lost_answer_that_cannot_be_checked(
    store: MemoryStore, log: GenerationLog, root: cache_pb2.Root
) -> None:
    store.lose = {"create"}
    store.refuse = {"get"}
    with pytest.raises(StoreUnavailable, match="create"):
        await log.publish(root, parent=None)
    store.refuse = set()
    newest = await log.newest()
    assert newest is not None
    assert newest.number == 1


class RetryingCreate(MemoryStore):
    """Loses the first answer of ``create`` and tries again, as a retrying wrapper does."""

    async def create(self, name: str, data: bytes) -> None:
        self.lose = {"create"}
        try:
            await super().create(name, data)
        except StoreUnavailable:
            await super().create(name, data)


async def test_the_own_head_is_recognised_after_a_retry(root: cache_pb2.Root) -> None:
    log = GenerationLog(RetryingCreate(), KEY)
    generation = await log.publish(root, parent=None)
    assert await log.newest() == generation
    with pytest.raises(HeadConflict):
        await log.publish(root, parent=None)


# Signed logs

MINE, THEIRS = (SigningKey(Ed25519PrivateKey.generate()) for _ in range(2))
TRUST = VerifyKeys(
    {("acme", "protected"): [MINE.verify_key], ("acme", "forks"): [THEIRS.verify_key]}
)
FORKS = CacheKey("acme", "forks", "app/main", "linux-amd64", "buildkit-0.33")


@pytest.fixture
def signed(store: MemoryStore) -> GenerationLog:
    return GenerationLog(store, KEY, signing=MINE, verify=TRUST)


async def test_a_signed_log(
    store: MemoryStore, signed: GenerationLog, root: cache_pb2.Root
) -> None:
    generations = await publish_many(signed, root, 3)
    assert await signed.newest() == generations[-1]
    assert await walk(signed) == ([3, 2, 1], [])
    assert {one.head.signing_key_id for one in generations} == {MINE.id}
    # Who has no verify keys reads it like any other.
    assert await GenerationLog(store, KEY).newest() == generations[-1]


def unsigned(raw: bytes) -> bytes:
    head = cache_pb2.Head.FromString(raw)
    head.ClearField("signature")
    return head.SerializeToString()


def resigned(
    key: SigningKey, change: Callable[[cache_pb2.Head], object] = lambda _: None
) -> Callable[[bytes], bytes]:
    def sign(raw: bytes) -> bytes:
        head = cache_pb2.Head.FromString(raw)
        change(head)
        return key.sign(head)

    return sign


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "unsigned": unsigned,
    "changed": edited(lambda head: setattr(head, "root", b"x" * 32)),
    "signed by a fork": resigned(THEIRS),
    "of a later format, and unsigned": edited(lambda head: setattr(head, "format_version", 2)),
    "signed by a fork as its own": resigned(
        THEIRS, lambda head: setattr(head, "trust_domain", "forks")
    ),
}


@pytest.mark.parametrize("kind", FORGERIES)
async def test_a_forged_newest_head(
    store: MemoryStore, signed: GenerationLog, root: cache_pb2.Root, kind: str
) -> None:
    third = (await publish_many(signed, root, 3))[-1]
    store.objects[KEY.head_name(3)] = FORGERIES[kind](third.raw)
    assert await walk(signed) == ([2, 1], [(3, UntrustedHead)])
    with pytest.raises(UntrustedHead, match="head 3: "):
        await signed.newest()


async def test_a_log_that_was_not_signed_from_the_start(
    log: GenerationLog, signed: GenerationLog, root: cache_pb2.Root
) -> None:
    older = (await publish_many(log, root, 2))[-1]
    first = await signed.publish(root, parent=older)
    await signed.publish(root, parent=first)
    assert await walk(signed) == ([4, 3], [(2, UntrustedHead), (1, UntrustedHead)])


async def test_a_signed_head_in_another_place(
    store: MemoryStore, signed: GenerationLog, root: cache_pb2.Root
) -> None:
    first, second, _ = await publish_many(signed, root, 3)
    store.objects[KEY.head_name(4)] = second.raw
    assert await walk(signed) == ([3, 2, 1], [(4, KeyMismatch)])
    other = GenerationLog(store, OTHER, signing=MINE, verify=TRUST)
    store.objects[OTHER.head_name(1)] = first.raw
    assert await walk(other) == ([], [(1, KeyMismatch)])


async def test_a_forks_head_in_a_protected_log(
    store: MemoryStore, signed: GenerationLog, root: cache_pb2.Root
) -> None:
    await publish_many(signed, root, 1)
    theirs = await GenerationLog(store, FORKS, signing=THEIRS, verify=TRUST).publish(
        root, parent=None
    )
    store.objects[KEY.head_name(2)] = theirs.raw
    assert await walk(signed) == ([1], [(2, UntrustedHead)])


async def test_a_head_that_is_not_the_one_that_was_continued(
    store: MemoryStore, signed: GenerationLog, root: cache_pb2.Root
) -> None:
    """A publisher that lost a race has signed a head too; a store may show that one instead."""
    first, second, _ = await publish_many(signed, root, 3)
    other = MemoryStore()
    lost = await GenerationLog(other, KEY, signing=MINE).publish(root, parent=first)
    store.objects[KEY.head_name(2)] = lost.raw
    assert await walk(signed) == ([3, 1], [(2, DisownedHead)])
    assert lost.number == second.number
    # Without keys nothing could be said of either.
    assert await walk(GenerationLog(store, KEY)) == ([3, 2, 1], [])


async def test_a_head_continues_where_its_publisher_could_not_read(
    store: MemoryStore, signed: GenerationLog, root: cache_pb2.Root
) -> None:
    (first,) = await publish_many(signed, root, 1)
    store.objects[KEY.head_name(2)] = resigned(THEIRS)(first.raw)
    await signed.publish(root, parent=None, number=3)
    assert await walk(signed) == ([3, 1], [(2, UntrustedHead)])


@pytest.fixture(params=["memory", "local", "s3"])
async def any_store(
    request: pytest.FixtureRequest, tmp_path: Path, minio: Minio
) -> AsyncIterator[Store]:
    stores: dict[str, Callable[[], Store]] = {
        "memory": MemoryStore,
        "local": lambda: LocalStore(tmp_path / "store"),
        "s3": lambda: open_store(minio.address(f"generations/{uuid.uuid4()}")),
    }
    made = stores[request.param]()
    yield made
    await made.close()


async def test_sixteen_publishers(any_store: Store, tmp_path: Path) -> None:
    roots = [make_root(tmp_path, marker=b"%d" % number) for number in range(16)]
    wins: dict[int, list[Generation]] = {number: [] for number in range(16)}

    async def publisher(number: int) -> None:
        log = GenerationLog(any_store, KEY)
        while not wins[number]:
            parent = await log.newest()
            with suppress(HeadConflict):
                wins[number].append(await log.publish(roots[number], parent=parent))

    async with asyncio.TaskGroup() as group:
        for number in range(16):
            group.create_task(publisher(number))

    published = sorted((win[0] for win in wins.values()), key=lambda one: one.number)
    assert [generation.number for generation in published] == list(range(1, 17))
    log = GenerationLog(any_store, KEY)
    seen = [one async for one in log.candidates(lambda number, _: pytest.fail(str(number)))]
    assert seen == published[::-1]
    for child, parent in itertools.pairwise(seen):
        assert child.head.parent == parent.digest
    for number, (win,) in wins.items():
        assert await log.read_root(win) == roots[number]


async def test_one_winner_each(any_store: Store, root: cache_pb2.Root) -> None:
    logs = [GenerationLog(any_store, KEY) for _ in range(16)]
    parent = None
    for _ in range(5):
        results = await asyncio.gather(
            *(log.publish(root, parent=parent) for log in logs), return_exceptions=True
        )
        (parent,) = [one for one in results if isinstance(one, Generation)]
        assert sum(isinstance(one, HeadConflict) for one in results) == 15
        assert await logs[0].newest() == parent
