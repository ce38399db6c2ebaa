"""Bodies of HTTP requests, given piece by piece with bounded memory; blocking, for threads.

A request is sent again when a kept-alive connection turns out to be dead; so a body starts from
its first byte each time it is asked for its pieces.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEP = 256 << 10


class Upload(Protocol):
    """A body of ``size`` bytes."""

    @property
    def size(self) -> int:
        """Bytes in all pieces together."""
        ...

    def pieces(self) -> Iterator[memoryview]:
        """The bytes from the first one on; each piece is valid until the next is asked for.

        Pieces are small: the limit on standing still holds for each of them.

        Raises:
            OSError: the bytes cannot be read.
        """
        ...


class BytesUpload:
    """Bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._view = memoryview(data)

    @property
    def size(self) -> int:
        """See ``Upload.size``."""
        return len(self._view)

    def pieces(self) -> Iterator[memoryview]:
        """See ``Upload.pieces``."""
        for at in range(0, len(self._view), _STEP):
            yield self._view[at : at + _STEP]


class FileUpload:
    """The open file ``fd``; its file offset is not used. The constructor blocks as fstat(2) does.

    A file that lost bytes since then is an ``OSError``.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size

    @property
    def size(self) -> int:
        """See ``Upload.size``."""
        return self._size

    def pieces(self) -> Iterator[memoryview]:
        """See ``Upload.pieces``."""
        buffer = memoryview(bytearray(min(_STEP, self._size)))
        at = 0
        while at < self._size:
            count = os.preadv(self._fd, [buffer[: self._size - at]], at)
            if count == 0:
                raise OSError(
                    errno.EIO,
                    f"the file lost bytes while it was sent: {at} of {self._size} are there",
                )
            yield buffer[:count]
            at += count
