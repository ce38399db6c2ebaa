"""Chunks: the unit of storage, named by the BLAKE3 of its uncompressed bytes.

A chunk is stored as one zstd frame (RFC 8878) where that is shorter, else as it is; which of
the two it is follows from the lengths, so there is no flag that could lie.
"""

from __future__ import annotations

import threading
from typing import TypeAlias

import blake3
import zstandard

from buildsvc.errors import CorruptObject

Buffer: TypeAlias = bytes | bytearray | memoryview

DIGEST_SIZE = 32
"""Bytes of a BLAKE3 digest."""

MAX_LENGTH = 4 << 20
"""Bytes that a chunk has at most, uncompressed; it has at least one."""

DEFAULT_LEVEL = 3
"""zstd level: above it, time grows faster than size shrinks."""


class _Codecs(threading.local):
    """zstd contexts of one thread: setting one up costs more than a small chunk."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        found = self.compressors.get(level)
        if found is None:
            found = self.compressors[level] = zstandard.ZstdCompressor(
                level=level, write_content_size=True
            )
        return found


_codecs = _Codecs()


def digest(data: Buffer) -> bytes:
    """The 32-byte BLAKE3 of ``data``."""
    return blake3.blake3(data).digest()


def encode(data: Buffer, level: int = DEFAULT_LEVEL) -> bytes:
    """The stored form of a chunk of 1 to ``MAX_LENGTH`` bytes, never longer than the chunk.

    Raises ValueError for another length.
    """
    length = len(data)
    if not 0 < length <= MAX_LENGTH:
        raise ValueError(f"a chunk has 1 to {MAX_LENGTH} bytes, not {length}")
    frame = _codecs.compressor(level).compress(data)
    return frame if len(frame) < length else bytes(data)


def decode(stored: Buffer, length: int, expected: bytes) -> bytes:
    """The ``length`` bytes whose digest is ``expected``, from their stored form.

    Raises CorruptObject when they are anything else. Allocates at most ``length`` bytes,
    which are at most ``MAX_LENGTH``, whatever the stored bytes claim.
    """
    if not 0 < len(stored) <= length <= MAX_LENGTH:
        raise CorruptObject(
            f"chunk {expected.hex()}: {len(stored)} bytes stored cannot be {length} bytes"
        )
    data = bytes(stored) if len(stored) == length else inflate(stored, length)
    if digest(data) != expected:
        raise CorruptObject(f"chunk {expected.hex()}: the bytes have another digest")
    return data


def inflate(frame: Buffer, length: int) -> bytes:
    """The content of a single zstd frame that declares and has exactly ``length`` bytes.

    Raises CorruptObject. python-zstandard allocates what a frame declares and ignores its
    own limit then, so the declaration is compared before anything is allocated.
    """
    try:
        declared = zstandard.frame_content_size(frame)
        if declared != length:
            raise CorruptObject(f"zstd frame declares {declared} bytes, expected {length}")
        data = _codecs.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObject(f"not a zstd frame of {length} bytes: {error}") from error
    if len(data) != length:
        raise CorruptObject(f"zstd frame holds {len(data)} bytes, expected {length}")
    return data


def split_digests(column: bytes) -> list[bytes]:
    """The digests that are concatenated in ``column``; CorruptObject when it ends within one."""
    if len(column) % DIGEST_SIZE:
        raise CorruptObject(f"{len(column)} bytes are no whole number of digests")
    return [column[at : at + DIGEST_SIZE] for at in range(0, len(column), DIGEST_SIZE)]
