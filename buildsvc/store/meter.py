"""A wrapper that counts what passes through a store."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from buildsvc.errors import StoreError
from buildsvc.store.contract import MAX_GET
from buildsvc.store.pages import by_page
from buildsvc.store.threads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from buildsvc.store.contract import ObjectStat, Store


@dataclass(slots=True)
class StoreUse:
    """Running totals, to be read at any time. Operations are named as the contract's methods."""

    bytes_in: int = 0
    """Bytes of objects read from the store, by operations that succeeded."""
    bytes_out: int = 0
    """Bytes of objects written to the store, by operations that succeeded."""
    operations: Counter[str] = field(default_factory=Counter)
    """Operations begun; a listing counts once for each page."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Time spent in operations that ended, however they did."""
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Operations that raised a ``StoreError``: operation, name of the error's class."""
    in_flight: int = 0
    """Operations begun and not ended."""


class MeteredStore:
    """``inner``, with every operation entered into ``use``.

    Outside a ``RetryingStore`` it counts what was asked for; inside, what was sent. ``clock``
    gives seconds.
    """

    def __init__(
        self, inner: Store, use: StoreUse, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._inner = inner
        self._use = use
        self._clock = clock
        self._threads = Threads(1, "meter")

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """See ``Store.get``."""
        async with self._entry("get"):
            data = await self._inner.get(name, limit=limit)
            self._use.bytes_in += len(data)
            return data

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        async with self._entry("get_range"):
            data = await self._inner.get_range(name, start, length)
            self._use.bytes_in += len(data)
            return data

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        async with self._entry("get_range_to"):
            copied = await self._inner.get_range_to(name, start, length, fd, at)
            self._use.bytes_in += copied
            return copied

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        async with self._entry("put"):
            await self._inner.put(name, data)
            self._use.bytes_out += len(data)

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``."""
        # Outside the entry: a file that is not there is no failure of the store.
        size = (await self._threads.run(path.stat)).st_size
        async with self._entry("put_file"):
            await self._inner.put_file(name, path)
            self._use.bytes_out += size

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``."""
        async with self._entry("create"):
            await self._inner.create(name, data)
            self._use.bytes_out += len(data)

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""
        async with self._entry("stat"):
            return await self._inner.stat(name)

    def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See ``Store.list``."""
        return by_page(self._inner.list(prefix), lambda: self._entry("list"))

    async def delete(self, name: str) -> None:
        """See ``Store.delete``."""
        async with self._entry("delete"):
            await self._inner.delete(name)

    async def close(self) -> None:
        """See ``Store.close``."""
        self._threads.close()
        await self._inner.close()

    @asynccontextmanager
    async def _entry(self, operation: str) -> AsyncIterator[None]:
        use = self._use
        use.operations[operation] += 1
        use.in_flight += 1
        began = self._clock()
        try:
            yield
        except StoreError as error:
            use.errors[operation, type(error).__name__] += 1
            raise
        finally:
            use.in_flight -= 1
            use.seconds[operation] += self._clock() - began
