"""Publishing so that no collection can have condemned what is published.

Every head says of which collection it knows, and so does every pack of a catalog: one that was
uploaded, of the newest collection known before the upload began; one of a restored generation, of
its head's. A head may name a pack that knows as much as the head does, and packs that the key's
newest generation names, or that of another key which knows as much; anything else is stored again
first, under another name. The proof is in ``buildsvc.cache.collect``.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.errors import CacheError, HeadConflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
    from buildsvc.cache.catalog import Catalog

CONFLICTS = 5
"""Publishers of one key that may win before one gives up."""

_LONG = 12 * 3600.0  # seconds; a collection deletes no head before twice that


class PacksCollected(CacheError):
    """Packs that are to be published may have been condemned: store what is in them again.

    ``packs`` are their digests, ``collection`` is the newest one that is known now.
    """

    packs: frozenset[bytes] = frozenset()
    collection: int = 0

    @classmethod
    def of(cls, packs: frozenset[bytes], collection: int) -> PacksCollected:
        """The error about these packs."""
        error = cls(f"{len(packs)} packs may have been deleted by collection {collection}")
        error.packs, error.collection = packs, collection
        return error


@dataclass(frozen=True)
class _Place:
    """Where the next head goes, and of which collection it has to know."""

    number: int
    parent: Generation | None
    collection: int


async def publish(
    log: GenerationLog,
    catalog: Catalog,
    build: Callable[[int], cache_pb2.Root],
    *,
    origin: GenerationLog | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Generation:
    """Creates the key's next head, as the newest one's child.

    ``build`` makes the root for the collection that it is told; it runs in a thread. ``origin`` is
    the log of another key, from which the catalog's packs come. Of packs that the newest generation
    of either key names ``catalog`` learns that they are safe.

    Raises:
        PacksCollected: something that the root names may have been deleted.
        HeadConflict: others won each of several times.
        CorruptObject: the root cannot be made, or no number is left.
        StoreError: the store does not take it.
    """
    root: cache_pb2.Root | None = None
    for attempt in range(CONFLICTS):
        began = clock()
        place = await _next_place(log)
        if root is None or root.collection != place.collection:
            root = await asyncio.to_thread(build, place.collection)
        await _check(log, catalog, root, place, origin)
        try:
            published = await log.publish(root, parent=place.parent, number=place.number)
            if clock() - began > _LONG:
                await _expect_newest(log, place.number)
        except HeadConflict:
            if attempt == CONFLICTS - 1:
                raise
        else:
            return published
    raise AssertionError("unreachable")


async def _next_place(log: GenerationLog) -> _Place:
    number = await log.newest_number()
    parent: Generation | None = None
    if number == 0:
        # So that a collection that begins after the next line finds the key.
        await log.announce()
    else:
        try:
            parent = await log.read(number)
        except CacheError:
            # A head that this version cannot read is continued, not overwritten. What it knows
            # is what had begun when it was seen.
            parent = None
    if parent is not None:
        return _Place(number + 1, parent, parent.head.collection)
    return _Place(number + 1, None, await log.collections.newest())


async def _expect_newest(log: GenerationLog, number: int) -> None:
    if await log.newest_number() != number:
        raise HeadConflict(f"generation {number} may have been there, and been deleted since")


async def _check(
    log: GenerationLog,
    catalog: Catalog,
    root: cache_pb2.Root,
    place: _Place,
    origin: GenerationLog | None,
) -> None:
    if not catalog.unsafe_packs(root, place.collection):
        return
    # What cannot be read nobody can use: it says nothing of what it names.
    if place.parent is not None:
        with suppress(CacheError):
            await _vouch(log, place.parent, catalog)
    if origin is not None and catalog.unsafe_packs(root, place.collection):
        with suppress(CacheError):
            if (newest := await origin.newest()) is not None:
                await _vouch(origin, newest, catalog)
    if unsafe := catalog.unsafe_packs(root, place.collection):
        raise PacksCollected.of(unsafe, place.collection)


async def _vouch(log: GenerationLog, generation: Generation, catalog: Catalog) -> None:
    if generation.head.root:
        named = (await log.read_root(generation)).packs
        catalog.vouch((pack.digest for pack in named), generation.head.collection)
