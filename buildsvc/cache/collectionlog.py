"""The log of a store's collections: which ones have begun, and what they keep and delete.

A collection has begun when its entry is created. Whoever needs to know which collections may have
condemned something asks for ``newest``; see ``buildsvc.cache.collect`` for why that is enough.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from buildsvc import __version__
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import digest
from buildsvc.cache.numbers import newest_number
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
_PLANS = "collections/plans/"
_NUMBER = re.compile(r"[0-9]{20}")

M = TypeVar("M", cache_pb2.Collection, cache_pb2.Plan, cache_pb2.Condemned)


class CollectionLog:
    """The collections of one store. Methods raise StoreError besides what they name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def newest(self) -> int:
        """The number of the newest collection that has begun, 0 when none has."""
        return await newest_number(self._store, _PREFIX, _entry_name, _entry_number)

    async def begin(self, plan: cache_pb2.Plan, created_unix_ns: int) -> int:
        """Begins a collection with this plan, which has a nonce of its own; its number."""
        raw = plan.SerializeToString(deterministic=True)
        await self._store.put(_plan_name(digest(raw)), raw)
        entry = cache_pb2.Collection(
            format_version=FORMAT_VERSION,
            buildsvc_version=__version__,
            created_unix_ns=created_unix_ns,
            plan=digest(raw),
        ).SerializeToString(deterministic=True)
        while True:
            number = await self.newest() + 1
            if await self._created(_entry_name(number), entry):
                return number

    async def plan(self, number: int) -> cache_pb2.Plan | None:
        """The plan of a collection; None when it is done.

        Raises CorruptObject, UnsupportedFormat.
        """
        entry = _decode(cache_pb2.Collection, await self._store.get(_entry_name(number)))
        name = _plan_name(entry.plan)
        try:
            raw = await self._store.get(name)
        except ObjectNotFound:
            return None
        if digest(raw) != entry.plan:
            raise CorruptObject(f"{name}: the bytes have another digest")
        return _decode(cache_pb2.Plan, raw)

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
        return _decode(cache_pb2.Condemned, raw)

    async def unfinished(self) -> list[int]:
        """Collections with something condemned that may not be deleted yet, as LIST shows them."""
        return [
            int(found.name.removeprefix(_CONDEMNED))
            async for found in self._store.list(_CONDEMNED)
            if _NUMBER.fullmatch(found.name.removeprefix(_CONDEMNED))
        ]

    async def done(self, number: int) -> None:
        """Forgets plan and condemned objects of a collection: all of them are deleted."""
        try:
            entry = _decode(cache_pb2.Collection, await self._store.get(_entry_name(number)))
        except ObjectNotFound:
            # It never began: somebody else has put condemned objects there.
            pass
        else:
            await self._store.delete(_plan_name(entry.plan))
        await self._store.delete(_condemned_name(number))

    async def old_plans(self, newest: int, before: float) -> list[str]:
        """Names of plans, written before that time of the store, of other collections."""
        kept = ""
        if newest:
            entry = _decode(cache_pb2.Collection, await self._store.get(_entry_name(newest)))
            kept = _plan_name(entry.plan)
        return [
            found.name
            async for found in self._store.list(_PLANS)
            if found.name != kept and found.modified is not None and found.modified < before
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
    digits = name.removeprefix(_PREFIX)
    return int(digits) if _NUMBER.fullmatch(digits) else None


def _condemned_name(number: int) -> str:
    return f"{_CONDEMNED}{number:020d}"


def _plan_name(plan_digest: bytes) -> str:
    return f"{_PLANS}{plan_digest.hex()}"


def _decode(kind: type[M], raw: bytes) -> M:
    name = kind.DESCRIPTOR.name
    try:
        message = kind.FromString(raw)
    except DecodeError as error:
        raise CorruptObject(f"collection: no {name}: {error}") from error
    if message.format_version != FORMAT_VERSION:
        raise UnsupportedFormat(
            f"collection: unknown format version of a {name}",
            expected=str(FORMAT_VERSION),
            found=str(message.format_version),
        )
    return message
