"""The log of a store's collections: which ones have begun, and what is left to delete.

A collection has begun when its entry is created. Whoever needs to know which collections may have
condemned something asks for ``newest``; see ``buildsvc.cache.collect`` for why that is enough.
Nobody reads an entry: it only has to be there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from buildsvc import __version__
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import DIGEST_SIZE
from buildsvc.cache.keys import LAST_NUMBER, parse_number
from buildsvc.cache.numbers import is_milestone, newest_number
from buildsvc.errors import (
    CorruptObject,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreUnavailable,
    UnsupportedFormat,
)

if TYPE_CHECKING:
    from buildsvc.store.contract import Store

FORMAT_VERSION = 1

_PREFIX = "collections/log/"
_CONDEMNED = "collections/condemned/"
_NONCE_SIZE = 16


class CollectionLog:
    """The collections of one store. Methods raise StoreError besides what they name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def newest(self) -> int:
        """The number of the newest collection that has begun, 0 when none has."""
        return await newest_number(self._store, _PREFIX, _entry_name, _entry_number)

    async def begin(self, created_unix_ns: int) -> int:
        """Begins a collection; its number. Raises CorruptObject when no number is left."""
        entry = cache_pb2.Collection(
            format_version=FORMAT_VERSION,
            buildsvc_version=__version__,
            created_unix_ns=created_unix_ns,
            nonce=os.urandom(_NONCE_SIZE),
        ).SerializeToString(deterministic=True)
        while True:
            number = await self.newest() + 1
            if number > LAST_NUMBER:
                raise CorruptObject("the log of collections has an entry out of range")
            if await self._created(_entry_name(number), entry):
                return number

    async def condemn(self, number: int, condemned: cache_pb2.Condemned) -> None:
        """Ends the marking of a collection; no effect where somebody else has done so."""
        raw = condemned.SerializeToString(deterministic=True)
        await self._created(_condemned_name(number), raw)

    async def condemned(self, number: int) -> cache_pb2.Condemned | None:
        """What a collection has condemned and not deleted yet; None when nothing.

        Raises CorruptObject, UnsupportedFormat.
        """
        try:
            raw = await self._store.get(_condemned_name(number))
        except ObjectNotFound:
            return None
        return _decode(raw)

    async def unfinished(self) -> list[int]:
        """Collections with something condemned that may not be deleted yet, as LIST shows them."""
        return [
            number
            async for found in self._store.list(_CONDEMNED)
            if (number := parse_number(found.name.removeprefix(_CONDEMNED))) is not None
        ]

    async def done(self, number: int) -> None:
        """Forgets what a collection has condemned: all of it is deleted."""
        await self._store.delete(_condemned_name(number))

    async def dead(self, before: float) -> list[str]:
        """Names of entries, written before that time of the store, that nobody looks for."""
        newest = await self.newest()
        return [
            found.name
            async for found in self._store.list(_PREFIX)
            if (number := _entry_number(found.name)) is not None
            and number < newest
            and not is_milestone(number, newest)
            and found.modified is not None
            and found.modified < before
        ]

    async def _created(self, name: str, data: bytes) -> bool:
        """Whether the object is there with these bytes."""
        try:
            await self._store.create(name, data)
        except ObjectExists:
            return await self._store.get(name) == data
        except StoreUnavailable as error:
            try:
                return await self._store.get(name) == data
            except StoreError:
                raise error from None
        return True


def _entry_name(number: int) -> str:
    return f"{_PREFIX}{number:020d}"


def _entry_number(name: str) -> int | None:
    return parse_number(name.removeprefix(_PREFIX))


def _condemned_name(number: int) -> str:
    return f"{_CONDEMNED}{number:020d}"


def _decode(raw: bytes) -> cache_pb2.Condemned:
    try:
        condemned = cache_pb2.Condemned.FromString(raw)
    except DecodeError as error:
        raise CorruptObject(f"collection: no list of condemned objects: {error}") from error
    if condemned.format_version != FORMAT_VERSION:
        raise UnsupportedFormat(
            "collection: unknown format version of a list of condemned objects",
            expected=str(FORMAT_VERSION),
            found=str(condemned.format_version),
        )
    if len(condemned.packs) % DIGEST_SIZE or len(condemned.roots) % DIGEST_SIZE:
        raise CorruptObject("collection: a column of digests ends within one")
    return condemned
