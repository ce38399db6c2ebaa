"""The log of generations of a cache key.

Heads are numbered from 1 without gaps, created once and never overwritten. A collector deletes what
old ones name, and later the old ones too, except for those by which the newest one is found
(``buildsvc.cache.numbers``). Whoever creates head n+1 has published. A store's LIST may be behind
or refused, so it is only where the search begins. A collection puts heads of its own between
(``buildsvc.cache.collect``), which repeat what is kept; so does whoever gives up what a key has
(``buildsvc.cache.fences.drop``).

With a signing key heads are signed, with verify keys only signed ones are read
(``buildsvc.cache.signing``). A chain of parents shows a head that was put in another's place: it
is checked where both are read. It cannot show that the newest heads are missing.

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
from buildsvc.cache.collectionlog import CollectionLog
from buildsvc.cache.keys import LAST_NUMBER, CacheKey
from buildsvc.cache.numbers import newest_number
from buildsvc.cache.roots import MAX_STORED, decode_root, encode_root, root_name
from buildsvc.errors import (
    CacheError,
    CorruptObject,
    DisownedHead,
    HeadConflict,
    KeyMismatch,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UnreadableObject,
    UnsupportedFormat,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from buildsvc.cache.signing import SigningKey, VerifyKeys
    from buildsvc.store.contract import Store

FORMAT_VERSION = 1
MAX_HEAD = 64 << 10
"""Bytes of a serialised head."""
NONCE_SIZE = 16


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
    def origin(self) -> int:
        """The number under which its root was published."""
        return self.head.repeats or self.head.number

    @property
    def digest(self) -> bytes:
        """BLAKE3 of the serialised head."""
        return digest(self.raw)


@dataclass
class Floor:
    """The oldest head that is kept, as the heads say that somebody has read; it only rises."""

    number: int = 1


class GenerationLog:
    """The heads of one key in one store. Methods raise StoreError besides what they name.

    ``signing`` signs what is published. With ``verify`` heads that are not signed by one of its
    keys are not read; without it a signature says nothing.
    """

    def __init__(
        self,
        store: Store,
        key: CacheKey,
        *,
        signing: SigningKey | None = None,
        verify: VerifyKeys | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.key = key
        self.collections = CollectionLog(store)
        self._store = store
        self._signing = signing
        self._verify = verify
        self._now_ns = now_ns

    async def newest_number(self, below: int = LAST_NUMBER + 1) -> int:
        """The number of the newest head, 0 when there is none, whether it can be read or not.

        Costs a LIST and one failed read when the LIST is up to date, and a number of reads
        logarithmic in what it lacks when it is not. Heads from ``below`` on are not looked at.
        """
        key = self.key
        return await newest_number(
            self._store, key.heads_prefix, key.head_name, key.head_number, below
        )

    async def newest(self) -> Generation | None:
        """The newest generation; None when nothing was published under this key.

        Raises CorruptObject, UnsupportedFormat, KeyMismatch, UntrustedHead when it cannot be
        used.
        """
        number = await self.newest_number()
        return await self.read(number) if number else None

    async def candidates(
        self,
        skipped: Callable[[int, CacheError], None],
        refused: Callable[[int, StoreRefused], None] | None = None,
        floor: Floor | None = None,
    ) -> AsyncGenerator[Generation, None]:
        """Generations from the newest back; ``skipped`` is told of each that cannot be used.

        ``refused`` is told of heads that the store does not give; without it, it is an error.
        Nothing below ``floor`` is read, which rises with what the heads say.

        Ends at the oldest that is kept. Where one is missing, what lies above it was not put
        there by a publisher: the newest one below is looked for.
        """
        child: Generation | None = None
        floor = floor or Floor()
        number = await self.newest_number()
        while number >= floor.number:
            try:
                generation = await self.read(number)
                if child is not None and self._verify is not None:
                    _check_parent(child, generation)
            except CacheError as error:
                skipped(number, error)
                child = None
            except StoreRefused as error:
                if refused is None:
                    raise
                refused(number, error)
                child = None
            except ObjectNotFound:
                child = None
                number = await self.newest_number(below=number)
                continue
            else:
                floor.number = max(floor.number, generation.head.oldest_kept)
                if generation.head.root:
                    yield generation
                # What lies between is of earlier collections, or could not be used.
                child = None if generation.head.repeats else generation
                number = generation.head.repeats or number
            number -= 1

    async def read(self, number: int) -> Generation:
        """One generation. Raises ObjectNotFound, and CacheError as ``newest`` does."""
        try:
            raw = await self._store.get(self.key.head_name(number), limit=MAX_HEAD)
        except UnreadableObject as error:
            raise CorruptObject(f"head {number}: {error}") from error
        return Generation(_decode_head(raw, self.key, number, self._verify), raw)

    async def read_root(self, generation: Generation) -> cache_pb2.Root:
        """The generation's Root, valid. Raises CorruptObject (also when it is not there),
        UnsupportedFormat.
        """
        try:
            stored = await self._store.get(root_name(generation.head.root), limit=MAX_STORED)
        except ObjectNotFound as error:
            raise CorruptObject(f"generation {generation.number}: its root is missing") from error
        except UnreadableObject as error:
            raise CorruptObject(f"generation {generation.number}: its root: {error}") from error
        return decode_root(stored, generation.head.root)

    async def publish(
        self, root: cache_pb2.Root, *, parent: Generation | None, number: int | None = None
    ) -> Generation:
        """Makes the root the key's newest generation. Its packs must be in the store already.

        ``buildsvc.cache.publication`` makes sure that no collection has condemned them.

        ``number`` is needed after a generation that cannot be read: ``newest_number() + 1``.

        Raises HeadConflict when another generation has the number, StoreError when it is not
        known to be published (a later ``newest`` tells), CorruptObject when no number is left.
        """
        if number is None:
            number = parent.number + 1 if parent else 1
        if number > LAST_NUMBER:
            raise CorruptObject(f"the log of key {self.key.text} has a head out of range")
        root_digest, stored = encode_root(root)
        head = self._head(number, parent)
        head.root = root_digest
        head.buildkit_version = root.buildkit_version
        head.collection = root.collection
        generation = self._signed(head)
        await self._store.put(root_name(root_digest), stored)
        await self._create(generation)
        return generation

    async def announce(self) -> None:
        """Lets collections know the key before its first head is created. Raises StoreError."""
        await self._store.put(self.key.object_name, self.key.text.encode())

    async def fence(
        self,
        number: int,
        *,
        parent: Generation | None,
        collection: int,
        oldest_kept: int,
        repeats: Generation | None,
    ) -> Generation:
        """Creates the head of a collection: what is published after it knows the collection.

        It repeats the root of ``repeats``, the newest generation that can be used; None when
        nothing is kept. Raises as ``publish`` does.
        """
        head = self._head(number, parent)
        head.collection = collection
        head.oldest_kept = oldest_kept
        if repeats is not None:
            head.root = repeats.head.root
            head.buildkit_version = repeats.head.buildkit_version
            head.repeats = repeats.origin
        generation = self._signed(head)
        await self._create(generation)
        return generation

    def _head(self, number: int, parent: Generation | None) -> cache_pb2.Head:
        return cache_pb2.Head(
            format_version=FORMAT_VERSION,
            key=self.key.text,
            number=number,
            parent=parent.digest if parent else b"",
            tenant=self.key.tenant,
            trust_domain=self.key.trust_domain,
            nonce=os.urandom(NONCE_SIZE),
            created_unix_ns=self._now_ns(),
            buildsvc_version=__version__,
        )

    def _signed(self, head: cache_pb2.Head) -> Generation:
        if self._signing is None:
            raw = head.SerializeToString(deterministic=True)
        else:
            raw = self._signing.sign(head)
        return Generation(cache_pb2.Head.FromString(raw), raw)

    async def _create(self, generation: Generation) -> None:
        """Creates the head, or finds out who did when the answer is not clear."""
        name = self.key.head_name(generation.number)
        try:
            await self._store.create(name, generation.raw)
        except ObjectExists:
            # It is ours when an earlier try was carried out and its answer lost.
            there = await self._bytes(name)
        except StoreUnavailable as error:
            try:
                there = await self._bytes(name)
            except StoreError:
                raise error from None
        else:
            return
        # The nonce makes the bytes of two publishers differ, whatever they publish.
        if there != generation.raw:
            raise HeadConflict(f"generation {generation.number} was published by somebody else")

    async def _bytes(self, name: str) -> bytes:
        """What is there; nothing if it is more than any head has."""
        try:
            return await self._store.get(name, limit=MAX_HEAD)
        except UnreadableObject:
            return b""


def _check_parent(child: Generation, parent: Generation) -> None:
    # Empty: whoever published the child could not read what was there.
    if child.head.parent and child.head.parent != parent.digest:
        raise DisownedHead(
            f"head {parent.number}: not the one that head {child.number} continues",
            expected=child.head.parent.hex(),
            found=parent.digest.hex(),
        )


def _decode_head(
    raw: bytes, key: CacheKey, number: int, verify: VerifyKeys | None
) -> cache_pb2.Head:
    try:
        head = cache_pb2.Head.FromString(raw)
    except DecodeError as error:
        raise CorruptObject(f"head {number}: {error}") from error
    # Before anything else is believed, its format too.
    if verify is not None:
        verify.check(head, raw, key, number)
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
            f"head {number}: made for another key", expected=key.text, found=repr(head.key[:200])
        )
    if head.number != number:
        raise KeyMismatch(
            f"head {number}: made for another place", expected=str(number), found=str(head.number)
        )
    if (
        len(head.root) not in ((0, DIGEST_SIZE) if head.oldest_kept else (DIGEST_SIZE,))
        or len(head.nonce) != NONCE_SIZE
        or len(head.parent) not in (0, DIGEST_SIZE)
    ):
        raise CorruptObject(f"head {number}: its root, nonce or parent is none")
    if bool(head.repeats) != bool(head.oldest_kept and head.root) or not (
        head.repeats < number and head.oldest_kept <= (head.repeats or number)
    ):
        raise CorruptObject(f"head {number}: it keeps or repeats what cannot be")
    return head
