"""The CRC-64 that OSS computes of every object (CRC-64/XZ, after ECMA-182).

https://www.alibabacloud.com/help/en/oss/user-guide/check-data-transmission-integrity-by-using-crc-64
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastcrc import crc64

if TYPE_CHECKING:
    from collections.abc import Iterator

    from buildsvc.store.uploads import Upload


class CheckedUpload:
    """``inner``; afterwards ``crc`` is that of the pieces that were given last."""

    def __init__(self, inner: Upload) -> None:
        self._inner = inner
        self.crc = 0

    @property
    def size(self) -> int:
        """See ``Upload.size``."""
        return self._inner.size

    def pieces(self) -> Iterator[memoryview]:
        """See ``Upload.pieces``."""
        self.crc = 0
        for piece in self._inner.pieces():
            self.crc = crc64.xz(piece, self.crc)
            yield piece


def crc_of(data: bytes) -> int:
    """The CRC of all of ``data``."""
    return crc64.xz(data)
