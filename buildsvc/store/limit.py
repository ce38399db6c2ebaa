"""A wrapper that bounds how many operations a store has at one time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from buildsvc.store.contract import MAX_GET
from buildsvc.store.pages import by_page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from buildsvc.store.contract import ObjectStat, Store


class LimitedStore:
    """At most ``limit`` operations of ``inner`` at one time; the rest wait in order.

    A listing counts only while it fetches, not while its reader works on what it got: that
    reader may need the store itself.
    """

    def __init__(self, inner: Store, limit: int) -> None:
        self._inner = inner
        self._slots = asyncio.Semaphore(limit)

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """See ``Store.get``."""
        async with self._slots:
            return await self._inner.get(name, limit=limit)

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        async with self._slots:
            return await self._inner.get_range(name, start, length)

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        async with self._slots:
            return await self._inner.get_range_to(name, start, length, fd, at)

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        async with self._slots:
            await self._inner.put(name, data)

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``."""
        async with self._slots:
            await self._inner.put_file(name, path)

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``."""
        async with self._slots:
            await self._inner.create(name, data)

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""
        async with self._slots:
            return await self._inner.stat(name)

    def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See ``Store.list``."""
        return by_page(self._inner.list(prefix), lambda: self._slots)

    async def delete(self, name: str) -> None:
        """See ``Store.delete``."""
        async with self._slots:
            await self._inner.delete(name)

    async def close(self) -> None:
        """See ``Store.close``."""
        await self._inner.close()
