"""Bodies of HTTP requests that are written step by step, with bounded memory.

aiohttp sends a request again by itself when a kept-alive connection turns out to be dead; so a
body starts from its first byte each time it is written, which a generator cannot.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aiohttp.payload import Payload

if TYPE_CHECKING:
    import threading

    from aiohttp.abc import AbstractStreamWriter

    from buildsvc.store.threads import Threads

_STEP = 1 << 20


class Upload(Payload):
    """A body of ``size`` bytes, which ``read`` gives piece by piece."""

    _autoclose = True

    def __init__(self, value: object, size: int) -> None:
        super().__init__(value)
        self._size = size

    async def read(self, at: int, length: int) -> bytes | memoryview:
        """At most ``length`` bytes from offset ``at``; none at the end."""
        raise NotImplementedError

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - the base's
        """Not offered: a pack is not text."""
        raise TypeError("the body of an object cannot be decoded")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Write the first ``content_length`` bytes, or all of them."""
        size = self._size or 0
        end = size if content_length is None else min(size, content_length)
        at = 0
        while at < end:
            data = await self.read(at, min(_STEP, end - at))
            if not data:
                raise EOFError(f"the file lost bytes while it was sent: {at} of {end} are there")
            await writer.write(data)
            at += len(data)


class BytesUpload(Upload):
    """Bytes in memory, in steps that do not keep the event loop."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, len(data))
        self._view = memoryview(data)

    async def read(self, at: int, length: int) -> memoryview:
        """A view of the bytes."""
        return self._view[at : at + length]


class FileUpload(Upload):
    """An open file, read in threads. The constructor blocks as fstat(2) does."""

    def __init__(self, fd: int, threads: Threads) -> None:
        super().__init__(fd, os.fstat(fd).st_size)
        self._fd = fd
        self._threads = threads

    async def read(self, at: int, length: int) -> bytes:
        """The file's bytes."""

        def pread(fd: int, _stop: threading.Event) -> bytes:
            return os.pread(fd, length, at)

        return await self._threads.borrow(self._fd, pread)
