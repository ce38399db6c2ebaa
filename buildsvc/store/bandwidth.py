"""A wrapper that bounds how many bytes a second are sent to a store."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from buildsvc.store.contract import MAX_GET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from buildsvc.store.contract import ObjectStat, Store


class BandwidthLimitedStore:
    """On average no more than ``upload`` bytes a second are sent to ``inner``.

    An object is sent as fast as the network takes it; the next one waits until the time is over
    that the ones before should have taken. Nothing that reads waits, and neither does ``create``:
    heads are small, and decide who has published.

    Around a ``RetryingStore``, whose deadline is not to count the waiting, it does not see what
    is sent again. ``sleep`` waits, ``clock`` gives seconds.
    """

    def __init__(
        self,
        inner: Store,
        upload: float,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._upload = upload
        self._sleep = sleep
        self._clock = clock
        self._free_at = clock()

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """See ``Store.get``."""
        return await self._inner.get(name, limit=limit)

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        return await self._inner.get_range(name, start, length)

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        return await self._inner.get_range_to(name, start, length, fd, at)

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        await self._turn(len(data))
        await self._inner.put(name, data)

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``."""
        await self._turn((await asyncio.to_thread(path.stat)).st_size)
        await self._inner.put_file(name, path)

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``."""
        await self._inner.create(name, data)

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""
        return await self._inner.stat(name)

    def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See ``Store.list``."""
        return self._inner.list(prefix)

    async def delete(self, name: str) -> None:
        """See ``Store.delete``."""
        await self._inner.delete(name)

    async def close(self) -> None:
        """See ``Store.close``."""
        await self._inner.close()

    async def _turn(self, size: int) -> None:
        """Wait until so many bytes may be sent."""
        now = self._clock()
        begin = max(now, self._free_at)
        self._free_at = begin + size / self._upload
        if begin > now:
            await self._sleep(begin - now)
