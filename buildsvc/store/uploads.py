"""A file as the body of an HTTP request, with bounded memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aiohttp.payload import Payload

if TYPE_CHECKING:
    import threading

    from aiohttp.abc import AbstractStreamWriter

    from buildsvc.store.threads import Threads

_STEP = 1 << 20


class FileUpload(Payload):
    """The bytes of an open file, read in threads.

    aiohttp sends a request again by itself when a kept-alive connection turns out to be dead;
    so the body starts from the first byte each time it is written, which a generator cannot.
    """

    _autoclose = True

    def __init__(self, fd: int, threads: Threads) -> None:
        super().__init__(fd)
        self._fd = fd
        self._threads = threads
        self._size = os.fstat(fd).st_size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002 - the base's
        """Not offered: a pack is not text."""
        raise TypeError("the body of an object cannot be decoded")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the whole file."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Write the first ``content_length`` bytes, or all of them."""
        size = self._size or 0
        end = size if content_length is None else min(size, content_length)
        at = 0
        while at < end:
            data = await self._threads.borrow(self._fd, _Read(at, min(_STEP, end - at)))
            if not data:
                raise EOFError(f"the file lost bytes while it was sent: {at} of {end} are there")
            await writer.write(data)
            at += len(data)


class _Read:
    def __init__(self, at: int, length: int) -> None:
        self._at = at
        self._length = length

    def __call__(self, fd: int, _stop: threading.Event) -> bytes:
        return os.pread(fd, self._length, self._at)
