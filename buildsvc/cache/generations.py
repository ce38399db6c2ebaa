"""The log of generations of a cache key.

Heads are numbered from 1 without gaps, created once, never overwritten and never deleted: a
collector deletes what old ones name, they themselves are small. Whoever creates head n+1 has
published. A store's LIST may be behind or refused, so it is only where the search begins.

The life of a generation::

    newest = await log.newest()                      # None: nobody published yet
    root = await log.read_root(newest)
    ...
    mine = await log.publish(root, parent=newest)    # HeadConflict: somebody was faster
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from buildsvc import __version__
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import DIGEST_SIZE, digest
from buildsvc.cache.keys import LAST_NUMBER, CacheKey
from buildsvc.cache.roots import decode_root, encode_root, root_name
from buildsvc.errors import (
    CacheError,
    CorruptObject,
    HeadConflict,
    KeyMismatch,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    UnsupportedFormat,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from buildsvc.store.contract import Store

FORMAT_VERSION = 1
MAX_HEAD = 64 << 10
"""Bytes of a serialised head."""
NONCE_SIZE = 16

_LIST_LIMIT = 2000  # names to read of a LIST; from the last of them the search goes on by doubling


@dataclass(frozen=True)
class Generation:
    """A head that was read or published, with its exact bytes."""

    head: cache_pb2.Head
    raw: bytes

    @property
    def number(self) -> int:
        """Its number in the log."""
        return self.head.number

    @property
    def digest(self) -> bytes:
        """BLAKE3 of the serialised head."""
        return digest(self.raw)


class GenerationLog:
    """The heads of one key in one store. Methods raise StoreError besides what they name."""

    def __init__(
        self, store: Store, key: CacheKey, *, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._store = store
        self._key = key
        self._now_ns = now_ns

    async def newest_number(self) -> int:
        """The number of the newest head, 0 when there is none, whether it can be read or not.

        Costs a LIST and one failed read when the LIST is up to date, and a number of reads
        logarithmic in what it lacks when it is not.
        """
        low = await self._listed()
        step = 1
        while await self._exists(low + step):
            low += step
            step *= 2
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            if await self._exists(middle):
                low = middle
            else:
                high = middle
        return low

    async def newest(self) -> Generation | None:
        """The newest generation; None when nothing was published under this key.

        Raises CorruptObject, UnsupportedFormat, KeyMismatch when it cannot be used.
        """
        number = await self.newest_number()
        return await self.read(number) if number else None

    async def candidates(
        self, skipped: Callable[[int, CacheError], None]
    ) -> AsyncIterator[Generation]:
        """Generations from the newest back; ``skipped`` is told of each that cannot be used.

        Ends at the first head, or where one is missing.
        """
        for number in range(await self.newest_number(), 0, -1):
            try:
                generation = await self.read(number)
            except CacheError as error:
                skipped(number, error)
            except ObjectNotFound:
                return
            else:
                yield generation

    async def read(self, number: int) -> Generation:
        """One generation. Raises ObjectNotFound, and CacheError as ``newest`` does."""
        raw = await self._store.get(self._key.head_name(number))
        return Generation(_decode_head(raw, self._key, number), raw)

    async def read_root(self, generation: Generation) -> cache_pb2.Root:
        """The generation's Root, valid. Raises CorruptObject (also when it is not there),
        UnsupportedFormat.
        """
        try:
            stored = await self._store.get(root_name(generation.head.root))
        except ObjectNotFound as error:
            raise CorruptObject(f"generation {generation.number}: its root is missing") from error
        return decode_root(stored, generation.head.root)

    async def publish(
        self, root: cache_pb2.Root, *, parent: Generation | None, number: int | None = None
    ) -> Generation:
        """Makes the root the key's newest generation. Its packs must be in the store already.

        ``number`` is needed after a generation that cannot be read: ``newest_number() + 1``.

        Raises HeadConflict when another generation has the number, StoreError when it is not
        known to be published (a later ``newest`` tells), CorruptObject when no number is left.
        """
        if number is None:
            number = parent.number + 1 if parent else 1
        if number > LAST_NUMBER:
            raise CorruptObject(f"the log of key {self._key.text} has a head out of range")
        root_digest, stored = encode_root(root)
        head = cache_pb2.Head(
            format_version=FORMAT_VERSION,
            key=self._key.text,
            number=number,
            parent=parent.digest if parent else b"",
            root=root_digest,
            tenant=self._key.tenant,
            trust_domain=self._key.trust_domain,
            nonce=os.urandom(NONCE_SIZE),
            created_unix_ns=self._now_ns(),
            buildsvc_version=__version__,
            buildkit_version=root.buildkit_version,
        )
        generation = Generation(head, head.SerializeToString(deterministic=True))
        await self._store.put(root_name(root_digest), stored)
        await self._create(generation)
        return generation

    async def _create(self, generation: Generation) -> None:
        """Creates the head, or finds out who did when the answer is not clear."""
        name = self._key.head_name(generation.number)
        try:
            await self._store.create(name, generation.raw)
        except ObjectExists:
            # It is ours when an earlier try was carried out and its answer lost.
            there = await self._store.get(name)
        except StoreUnavailable as error:
            try:
                there = await self._store.get(name)
            except StoreError:
                raise error from None
        else:
            return
        # The nonce makes the bytes of two publishers differ, whatever they publish.
        if there != generation.raw:
            raise HeadConflict(f"generation {generation.number} was published by somebody else")

    async def _listed(self) -> int:
        """The newest number that LIST shows, 0 when it shows none or fails."""
        newest = seen = 0
        try:
            async for found in self._store.list(self._key.heads_prefix):
                newest = max(newest, self._key.head_number(found.name) or 0)
                seen += 1
                if seen >= _LIST_LIMIT:
                    break
        except StoreError:
            return newest
        return newest

    async def _exists(self, number: int) -> bool:
        if number > LAST_NUMBER:
            return False
        try:
            await self._store.stat(self._key.head_name(number))
        except ObjectNotFound:
            return False
        return True


def _decode_head(raw: bytes, key: CacheKey, number: int) -> cache_pb2.Head:
    if len(raw) > MAX_HEAD:
        raise CorruptObject(f"head {number}: {len(raw)} bytes")
    try:
        head = cache_pb2.Head.FromString(raw)
    except DecodeError as error:
        raise CorruptObject(f"head {number}: {error}") from error
    if not head.format_version:
        raise CorruptObject(f"head {number}: it has no format version")
    if head.format_version != FORMAT_VERSION:
        raise UnsupportedFormat(
            f"head {number}: unknown format version",
            expected=str(FORMAT_VERSION),
            found=f"{head.format_version} (written by buildsvc {head.buildsvc_version[:40]!r})",
        )
    expected = (key.text, key.tenant, key.trust_domain)
    found = (head.key, head.tenant, head.trust_domain)
    if found != expected:
        raise KeyMismatch(
            f"head {number}: made for another key", expected=key.text, found=head.key[:200]
        )
    if (
        head.number != number
        or len(head.root) != DIGEST_SIZE
        or len(head.nonce) != NONCE_SIZE
        or len(head.parent) not in (0, DIGEST_SIZE)
    ):
        raise CorruptObject(f"head {number}: its number, root, nonce or parent is none")
    return head
