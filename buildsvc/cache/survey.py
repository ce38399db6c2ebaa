"""Looking through a whole store: its keys, their generations, its packs and roots."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from google.protobuf.message import DecodeError

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.generations import MAX_HEAD, Floor, Generation, GenerationLog
from buildsvc.cache.keys import CacheKey, parse_number
from buildsvc.cache.numbers import is_milestone
from buildsvc.cache.retention import Kept, KeyState
from buildsvc.cache.roots import root_name
from buildsvc.errors import (
    CacheError,
    ConfigError,
    DisownedHead,
    ObjectNotFound,
    StoreRefused,
    StoreUnavailable,
    UnreadableObject,
    UnsupportedFormat,
    UntrustedHead,
)
from buildsvc.store.contract import ObjectStat, Store

Logs: TypeAlias = Callable[[CacheKey], GenerationLog]
"""How the log of a key is read: with which keys its heads are verified and signed."""

_KEYS = "keys/"
_OF_KEY = re.compile(r"keys/([0-9a-f]{32})/(key|heads/([0-9]{20}))")
_DIGEST = re.compile(r"(?:packs/[0-9a-f]{2}|roots)/([0-9a-f]{64})")
_MAX_TEXT = 4096


@dataclass
class Listed:
    """What LIST shows of a key."""

    id: str
    announced: bool = False
    heads: dict[int, float | None] = field(default_factory=dict)
    """When each head was created, by the store's clock."""

    def gaps(self, fenced: int) -> list[int]:
        """Heads after the newest fence that LIST shows without the one before them: somebody else
        put them there.
        """
        return [n for n in self.heads if n > fenced and n - 1 not in self.heads]

    def dead(self, unread: Iterable[range], before: float) -> list[str]:
        """Names of heads with these numbers, written before that time of the store, that no
        search for the newest one looks for.
        """
        newest = max(self.heads, default=0)
        return [
            f"{self.prefix}{number:020d}"
            for numbers in unread
            for number, modified in self.heads.items()
            if number in numbers
            and not is_milestone(number, newest)
            and modified is not None
            and modified < before
        ]

    @property
    def prefix(self) -> str:
        """What the names of its heads begin with."""
        return f"{_KEYS}{self.id}/heads/"


async def listed_keys(store: Store, key_id: str = "") -> list[Listed]:
    """The keys that LIST shows, or the one with this id. Raises StoreError."""
    keys: dict[str, Listed] = {}
    async for found in store.list(f"{_KEYS}{key_id}/" if key_id else _KEYS):
        if match := _OF_KEY.fullmatch(found.name):
            key = keys.setdefault(match[1], Listed(match[1]))
            if not match[3]:
                key.announced = True
            elif (number := parse_number(match[3])) is not None:
                key.heads[number] = found.modified
    return list(keys.values())


async def listed_digests(store: Store, prefix: str) -> AsyncIterator[tuple[bytes, ObjectStat]]:
    """The packs or roots that LIST shows, with their digests. Raises StoreError."""
    async for found in store.list(prefix):
        if match := _DIGEST.fullmatch(found.name):
            yield bytes.fromhex(match[1]), found


def _key_of(text: bytes, key_id: str) -> CacheKey | None:
    try:
        key = CacheKey.from_text(text.decode())
    except (ConfigError, UnicodeDecodeError):
        return None
    return key if key.id == key_id else None


class Reader:
    """Reads the logs of keys, and takes nothing for unusable because of a bad answer.

    What a generation names may be deleted when nobody can read it. So bytes that are not what they
    should be are read again, and have to be the same; generations of a later format, and keys of
    which no head is trusted, end the collection.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._packs: dict[bytes, dict[bytes, int]] = {}

    async def state(self, log: GenerationLog, listed: Listed) -> KeyState:
        """What there is of a key. Raises StoreError, UnsupportedFormat, UntrustedHead."""
        generations: dict[int, Kept] = {}
        unread: list[range] = []
        oldest_kept = 1
        async for generation, packs in self.usable(log):
            head, number = generation.head, generation.origin
            if head.repeats:
                oldest_kept = max(oldest_kept, head.oldest_kept)
                unread.append(range(head.repeats + 1, head.number))
            modified = listed.heads.get(number)
            if modified is None:
                modified = (await self._store.stat(log.key.head_name(number))).modified
            if modified is None:
                raise no_times()
            generations.setdefault(number, Kept(number, modified, generation.head.root, packs))
        newest = await log.newest_number()
        # A fence that repeats nothing is none of the above.
        below = min(generations, default=newest + 1) - 1
        if below >= oldest_kept:
            with suppress(CacheError, ObjectNotFound):
                oldest_kept = max(oldest_kept, (await log.read(below)).head.oldest_kept)
        return KeyState(
            id=log.key.id,
            text=log.key.text,
            tenant=log.key.tenant,
            newest=newest,
            unread=(range(1, oldest_kept), *unread),
            generations=[generations[number] for number in sorted(generations)],
        )

    async def usable(
        self, log: GenerationLog, floor: Floor | None = None
    ) -> AsyncGenerator[tuple[Generation, dict[bytes, int]], None]:
        """Generations from the newest back, with the sizes of the packs that each names.

        As far as ``floor``, which rises with what the heads say. Raises StoreError,
        UnsupportedFormat, UntrustedHead.
        """
        skipped: list[tuple[int, CacheError]] = []
        untrusted: CacheError | None = None
        trusted = False
        async for generation in log.candidates(
            lambda number, e: skipped.append((number, e)), floor=floor
        ):
            untrusted = await self._look_into(log, skipped) or untrusted
            trusted = True
            if (packs := await self.packs(log, generation)) is not None:
                yield generation, packs
        untrusted = await self._look_into(log, skipped) or untrusted
        if untrusted is not None and not trusted:
            raise untrusted

    async def find_key(self, listed: Listed) -> CacheKey | None:
        """The key of that id, from what tells it; None when nothing that can be read does.

        Raises StoreError.
        """
        if listed.announced:
            with suppress(UnreadableObject):
                raw = await self._store.get(f"{_KEYS}{listed.id}/key", limit=_MAX_TEXT)
                if (key := _key_of(raw, listed.id)) is not None:
                    return key
        names = [f"{listed.prefix}{number:020d}" for number in sorted(listed.heads, reverse=True)]
        for name in names:
            try:
                head = cache_pb2.Head.FromString(await self._store.get(name, limit=MAX_HEAD))
            except (DecodeError, ObjectNotFound, UnreadableObject):
                continue
            if (key := _key_of(head.key.encode(), listed.id)) is not None:
                return key
        for name in names:
            await self._still(name)
        return None

    async def _look_into(
        self, log: GenerationLog, skipped: list[tuple[int, CacheError]]
    ) -> CacheError | None:
        """Takes what was skipped from the list; one that is not trusted, if any."""
        untrusted: CacheError | None = None
        for number, problem in skipped:
            if isinstance(problem, UnsupportedFormat):
                raise problem
            if isinstance(problem, UntrustedHead):
                untrusted = problem
            # One that another head disowns can be read itself.
            if not isinstance(problem, DisownedHead):
                await self._still_unreadable(log, number)
        skipped.clear()
        return untrusted

    async def packs(self, log: GenerationLog, generation: Generation) -> dict[bytes, int] | None:
        """The packs that a generation names; None when its root cannot be read.

        Raises StoreError, UnsupportedFormat.
        """
        digest = generation.head.root
        if digest not in self._packs:
            try:
                root = await log.read_root(generation)
            except UnsupportedFormat:
                raise
            except CacheError:
                if not await self._still(root_name(digest)):
                    return None
                try:
                    await log.read_root(generation)
                except CacheError:
                    return None
                raise _bad_answer(root_name(digest)) from None
            self._packs[digest] = {pack.digest: pack.size for pack in root.packs}
        return self._packs[digest]

    async def _still_unreadable(self, log: GenerationLog, number: int) -> None:
        if not await self._still(log.key.head_name(number)):
            return
        try:
            await log.read(number)
        except CacheError:
            return
        raise _bad_answer(log.key.head_name(number))

    async def _still(self, name: str) -> bool:
        """Whether the object is there, with the same bytes each time. Raises StoreUnavailable."""
        answers: list[bytes | None] = []
        for _ in range(2):
            try:
                answers.append(await self._store.get(name))
            except ObjectNotFound:
                answers.append(None)
        if answers[0] != answers[1]:
            raise _bad_answer(name)
        return answers[0] is not None


def _bad_answer(name: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"{name} is not the same each time that it is read",
        advice="look for what corrupts data between this machine and the store, then start again",
    )


def no_times() -> StoreRefused:
    """The error about a store that does not tell when objects were written."""
    return StoreRefused(
        "the store does not tell when objects were written",
        expected="a time of modification for each object",
        advice="collect with another address of the same store, such as its directory",
    )
