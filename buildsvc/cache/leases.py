"""Leases: a pod that uses a generation says so, and collections keep it meanwhile.

A lease is one object that is put again before its term ends. Its age counts by the store's clock
alone. It is a courtesy: a reader whose generation is collected goes on without it, as after any
loss, and publication does not rely on leases.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import DIGEST_SIZE
from buildsvc.errors import ObjectNotFound, StoreUnavailable, UnreadableObject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from buildsvc.store.contract import ObjectStat, Store

FORMAT_VERSION = 1
TERM = 3600
"""Seconds for which a lease holds after it was put."""
MAX_TERM = 2 * TERM
"""Seconds beyond which no term counts: nobody keeps something for good with one request, and a
collector reads only the leases of so many seconds."""

_PREFIX = "leases/"
_MAX_SIZE = 1024


class Lease:
    """A lease on one root."""

    def __init__(self, store: Store, root_digest: bytes, term: int = TERM) -> None:
        self._store = store
        self._name = f"{_PREFIX}{os.urandom(16).hex()}"
        self._raw = cache_pb2.Lease(
            format_version=FORMAT_VERSION, root=root_digest, term_seconds=term
        ).SerializeToString(deterministic=True)
        self._term = term

    async def renew(self) -> None:
        """Begins the term anew. Raises StoreError."""
        await self._store.put(self._name, self._raw)

    async def hold(self, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Renews it until cancelled.

        Raises:
            StoreRefused: the store takes no leases from this identity.
        """
        while True:
            # There are three more tries before the term ends.
            with suppress(StoreUnavailable):
                await self.renew()
            await sleep(self._term / 4)


async def leased_roots(store: Store, now: float) -> set[bytes]:
    """Digests of roots under a lease at a time of the store. Raises StoreError."""
    roots: set[bytes] = set()
    async for found in store.list(_PREFIX):
        age = _age(found, now)
        if age > MAX_TERM:
            continue
        try:
            lease = cache_pb2.Lease.FromString(await store.get(found.name, limit=_MAX_SIZE))
        except (DecodeError, ObjectNotFound, UnreadableObject):
            continue
        if len(lease.root) == DIGEST_SIZE and age <= lease.term_seconds:
            roots.add(lease.root)
    return roots


async def ended_leases(store: Store, now: float) -> list[str]:
    """Names of what is no lease any more at a time of the store. Raises StoreError."""
    return [found.name async for found in store.list(_PREFIX) if _age(found, now) > MAX_TERM]


def _age(found: ObjectStat, now: float) -> float:
    return now - found.modified if found.modified is not None else 0.0
