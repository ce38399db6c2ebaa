"""Files as bodies of S3 requests, with bounded memory."""

from __future__ import annotations

import errno
import mmap
import os
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

    from buildsvc.store.threads import Threads

WHOLE = 32 << 20
"""Largest file, in bytes, that is sent in one request, and so is in memory as a whole: a pack."""

PART = 8 << 20
"""Bytes of a part of a larger one. S3 takes parts of at least 5 MiB, and 10,000 of them."""


def read_whole(path: Path, size: int) -> memoryview:
    """The file's ``size`` bytes; blocking.

    Raises:
        OSError: it cannot be read, or has fewer by now.
    """
    with path.open("rb", buffering=0) as file:
        return _read(file.fileno(), 0, size, size)


class FileParts:
    """The ``size`` bytes of the open ``fd`` in parts of ``PART``, to be iterated over once.

    The descriptor may be closed while a part is on its way to a caller who has gone.
    """

    def __init__(self, threads: Threads, fd: int, size: int) -> None:
        self._threads = threads
        self._fd = fd
        self._size = size
        self._at = 0

    def __aiter__(self) -> Self:
        """See ``collections.abc.AsyncIterator``."""
        return self

    async def __anext__(self) -> memoryview:
        """The next part.

        Raises:
            OSError: it cannot be read, or the file has fewer bytes by now.
        """
        at, length = self._at, min(PART, self._size - self._at)
        if length == 0:
            raise StopAsyncIteration
        self._at += length
        return await self._threads.borrow(self._fd, lambda fd, _: _read(fd, at, length, self._size))


def _read(fd: int, at: int, length: int, size: int) -> memoryview:
    # Memory of its own, which goes back to the system with the last reference: the allocator
    # keeps freed pieces of this size, as many as there are threads.
    buffer = memoryview(mmap.mmap(-1, max(1, length)))[:length]
    done = 0
    while done < length:
        count = os.preadv(fd, [buffer[done:]], at + done)
        if count == 0:
            raise OSError(
                errno.EIO,
                f"the file lost bytes while it was sent: {at + done} of {size} are there",
            )
        done += count
    return buffer
