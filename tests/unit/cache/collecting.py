"""What tests of publication and collection play with: writers, and what is there afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import digest, split_digests
from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.packs import pack_name
from buildsvc.cache.retention import Policy
from buildsvc.cache.roots import root_name
from buildsvc.errors import CacheError
from tests.unit.cache.actors import (
    ITEMS,
    Actor,
    Bucket,
    Hand,
    Packs,
    Work,
    Writer,
    collect,
    item,
)

LAST = Policy(keep_last=1, min_age=0)
"""Keeps the newest generation of each key, and nothing because it is young."""

PACKS = Packs()


def writer(
    key: CacheKey,
    added: Iterable[int],
    dropped: Iterable[int] = (),
    *,
    fallback: CacheKey | None = None,
    complete: bool = True,
) -> Writer:
    """A pod of that key."""
    return Writer(
        PACKS, key, fallback or key, frozenset(added), frozenset(dropped), complete, skew_ns=0
    )


async def play(bucket: Bucket, work: Work) -> None:
    """Goes through it undisturbed."""
    await Actor(bucket, "", work).finish()


async def stalled(bucket: Bucket, work: Work, before: str) -> Actor:
    """Goes up to its first operation of that name."""
    actor = Actor(bucket, "", work)
    assert await actor.before(before), f"it never came to {before}"
    return actor


async def collected(bucket: Bucket, policy: Policy = LAST) -> None:
    """A whole collection."""
    await play(bucket, lambda hand: collect(hand, policy, settle=0))


@dataclass(frozen=True)
class Published:
    """A generation that a reader would find, newest first."""

    head: cache_pb2.Head
    items: set[int]
    missing: set[str]
    """Objects that it names and that are not there."""


async def generations(bucket: Bucket, key: CacheKey) -> list[Published]:
    """What readers of the key find, newest first."""
    found = []
    numbers = {digest(item(number)): number for number in range(ITEMS)}

    async def work(hand: Hand) -> None:
        log = GenerationLog(hand, key)
        async for generation in log.candidates(lambda _, __: None):
            try:
                root = await log.read_root(generation)
            except CacheError:
                missing = {root_name(generation.head.root)}
                found.append(Published(generation.head, set(), missing))
                continue
            named = {pack_name(pack.digest) for pack in root.packs}
            items = {numbers[one] for one in split_digests(root.chunk_digests)}
            missing = named - bucket.objects.keys()
            found.append(Published(generation.head, items, missing))

    await play(bucket, work)
    return found


def names(bucket: Bucket, prefix: str) -> set[str]:
    """Names of objects."""
    return {name for name in bucket.objects if name.startswith(prefix)}
