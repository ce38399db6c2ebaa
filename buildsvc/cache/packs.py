"""Packs: the objects that hold chunks, so that a cache is hundreds of objects and not 100,000.

A pack is immutable and named by the BLAKE3 of its bytes. Layout, all numbers little-endian::

    stored chunks, back to back from offset 0
    index      32-byte digest of each chunk, then its bytes stored, then its length (u32 each)
    trailer    BLAKE3 of the index (32), nonce (16), bytes of chunks (u64), bytes of index (u32),
               format version (u32), magic (8)

The nonce is random, so that no two packs have one name: a pack that a collection has condemned
(``buildsvc.cache.collect``) stays condemned, and the same chunks stored again are another pack.

Readers of a generation find chunks through its Root. The index is for whoever has no Root:
checking a pack, or rebuilding what is known of it.
"""

from __future__ import annotations

import os
import struct
import sys
import tempfile
from array import array
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import blake3

from buildsvc.cache.chunks import (
    DIGEST_SIZE,
    MAX_LENGTH,
    Buffer,
    decode,
    digest,
    split_digests,
)
from buildsvc.errors import CorruptObject, UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT_VERSION = 2
TARGET_SIZE = 24 << 20
"""Bytes of chunks at which a pack is full: few objects, yet a lost one is soon sent again."""
MAX_PACK = 64 << 20
"""Bytes that a reader accepts as a pack."""

_MAGIC = b"bsvcpack"
_TRAILER = struct.Struct("<32s16sQII8s")
_ENTRY_SIZE = DIGEST_SIZE + 4 + 4
_NONCE_SIZE = 16

TRAILER_SIZE = _TRAILER.size
"""Bytes at the end of a pack that tell where its index is."""


@dataclass(frozen=True)
class PackIndex:
    """What a pack holds; all columns have one item a chunk, in the order of the bytes."""

    digests: list[bytes]
    offsets: list[int]
    stored: list[int]
    lengths: list[int]


@dataclass(frozen=True)
class FinishedPack:
    """A complete pack file; columns as in a Root, digests concatenated."""

    path: Path
    digest: bytes
    size: int
    chunk_digests: bytes
    chunk_offsets: list[int]
    chunk_stored: list[int]
    chunk_lengths: list[int]


def pack_name(pack_digest: bytes) -> str:
    """The store's name of a pack."""
    text = pack_digest.hex()
    return f"packs/{text[:2]}/{text}"


def pack_digest(name: str) -> bytes:
    """The digest of the pack of that name."""
    return bytes.fromhex(name.rpartition("/")[2])


class PackWriter:
    """Writes chunks into pack files in a directory, one pack open at a time.

    Hashes while it writes, keeps no chunk in memory. Not for several threads at once.
    An OSError (a full disk) leaves the open pack unusable: ``discard`` it.
    """

    def __init__(self, directory: Path, target: int = TARGET_SIZE) -> None:
        self._directory = directory
        self._target = target
        self._open: _OpenPack | None = None

    @property
    def open_size(self) -> int:
        """Bytes of chunks in the open pack."""
        return self._open.size if self._open else 0

    def add(self, chunk_digest: bytes, stored: Buffer, length: int) -> FinishedPack | None:
        """Appends a chunk as ``chunks.encode`` made it; the finished pack when it is now full.

        A chunk that the open pack already holds is not written again. Raises ValueError for
        lengths that no chunk has, OSError.
        """
        if len(chunk_digest) != DIGEST_SIZE or not 0 < len(stored) <= length <= MAX_LENGTH:
            raise ValueError(f"no chunk: {len(stored)} bytes stored for {length}")
        if self._open is None:
            self._open = _OpenPack(self._directory)
        self._open.append(chunk_digest, stored, length)
        return self.finish() if self._open.size >= self._target else None

    def finish(self) -> FinishedPack | None:
        """Completes the open pack, whatever its size; None when there is none. Raises OSError."""
        if self._open is None:
            return None
        finished = self._open.finish(self._directory)
        self._open = None
        return finished

    def discard(self) -> None:
        """Drops the open pack and its file, if any."""
        if self._open is not None:
            self._open.discard()
            self._open = None


class _OpenPack:
    """A pack file that is being written."""

    def __init__(self, directory: Path) -> None:
        fd, name = tempfile.mkstemp(dir=directory, prefix=".open-", suffix=".pack")
        self._path = Path(name)
        self._file = open(fd, "wb", buffering=0)  # noqa: SIM115 - closed by finish or discard
        self._hasher = blake3.blake3()
        self._chunks: dict[bytes, tuple[int, int]] = {}
        self.size = 0

    def append(self, chunk_digest: bytes, stored: Buffer, length: int) -> None:
        if chunk_digest in self._chunks:
            return
        self._write(stored)
        self._chunks[chunk_digest] = (len(stored), length)
        self.size += len(stored)

    def finish(self, directory: Path) -> FinishedPack:
        stored = [size for size, _ in self._chunks.values()]
        lengths = [length for _, length in self._chunks.values()]
        digests = b"".join(self._chunks)
        index = digests + _pack_u32(stored) + _pack_u32(lengths)
        self._write(index)
        nonce = os.urandom(_NONCE_SIZE)
        trailer = _TRAILER.pack(digest(index), nonce, self.size, len(index), FORMAT_VERSION, _MAGIC)
        self._write(trailer)
        self._file.close()
        name = self._hasher.digest()
        path = directory / f"{name.hex()}.pack"
        self._path.rename(path)
        return FinishedPack(
            path=path,
            digest=name,
            size=self.size + len(index) + len(trailer),
            chunk_digests=digests,
            chunk_offsets=_offsets(stored),
            chunk_stored=stored,
            chunk_lengths=lengths,
        )

    def discard(self) -> None:
        self._file.close()
        self._path.unlink()

    def _write(self, data: Buffer) -> None:
        self._hasher.update(data)
        with memoryview(data) as view:
            at = 0
            while at < len(view):
                at += self._file.write(view[at:])


def tail_length(trailer: Buffer, size: int) -> int:
    """Bytes of index and trailer, from the last ``TRAILER_SIZE`` bytes of a pack of ``size``.

    Raises CorruptObject when these are no pack's, UnsupportedFormat for another version.
    """
    return _read_trailer(trailer, size)[2] + TRAILER_SIZE


def read_index(tail: Buffer, size: int) -> PackIndex:
    """The index of a pack of ``size`` bytes, from its last bytes, ``tail_length`` at least.

    Raises CorruptObject, UnsupportedFormat.
    """
    index_digest, chunk_bytes, index_length = _read_trailer(tail, size)
    start = len(tail) - TRAILER_SIZE - index_length
    if start < 0:
        raise CorruptObject(f"pack index: {len(tail)} bytes do not hold it")
    index = bytes(tail[start : start + index_length])
    if digest(index) != index_digest:
        raise CorruptObject("pack index: the bytes have another digest")
    count = index_length // _ENTRY_SIZE
    numbers = DIGEST_SIZE * count
    digests = split_digests(index[:numbers])
    stored = _unpack_u32(index[numbers : numbers + 4 * count])
    lengths = _unpack_u32(index[numbers + 4 * count :])
    if sum(stored) != chunk_bytes or not all(
        0 < there <= length <= MAX_LENGTH for there, length in zip(stored, lengths, strict=True)
    ):
        raise CorruptObject("pack index: the lengths are no chunks'")
    if len(set(digests)) != count:
        raise CorruptObject("pack index: a chunk is in it twice")
    return PackIndex(digests, _offsets(stored), stored, lengths)


def verify(data: Buffer, pack_digest: bytes) -> PackIndex:
    """The index of the pack in ``data``, after a check of its name and of every chunk.

    Raises CorruptObject, UnsupportedFormat.
    """
    if digest(data) != pack_digest:
        raise CorruptObject(f"pack {pack_digest.hex()}: the bytes have another digest")
    index = read_index(data, len(data))
    with memoryview(data) as view:
        columns = zip(index.digests, index.offsets, index.stored, index.lengths, strict=True)
        for chunk_digest, offset, stored, length in columns:
            decode(view[offset : offset + stored], length, chunk_digest)
    return index


def _read_trailer(tail: Buffer, size: int) -> tuple[bytes, int, int]:
    """Digest of the index, bytes of chunks, bytes of index."""
    if not TRAILER_SIZE <= len(tail) <= size <= MAX_PACK:
        raise CorruptObject(f"pack: {size} bytes, of which {len(tail)} are here, are none")
    index_digest, _, chunk_bytes, index_length, version, magic = _TRAILER.unpack(
        tail[len(tail) - TRAILER_SIZE :]
    )
    if magic != _MAGIC:
        raise CorruptObject("pack: the last bytes are no pack's")
    if version != FORMAT_VERSION:
        raise UnsupportedFormat(
            "pack: unknown format version", expected=str(FORMAT_VERSION), found=str(version)
        )
    if index_length % _ENTRY_SIZE or chunk_bytes + index_length + TRAILER_SIZE != size:
        raise CorruptObject("pack: the trailer contradicts the size")
    return index_digest, chunk_bytes, index_length


def _offsets(stored: Iterable[int]) -> list[int]:
    """Where each chunk begins; their sum is left out."""
    return list(accumulate(stored, initial=0))[:-1]


def _pack_u32(numbers: Iterable[int]) -> bytes:
    column = array("I", numbers)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tobytes()


def _unpack_u32(data: bytes) -> list[int]:
    column = array("I", data)
    if sys.byteorder == "big":
        column.byteswap()
    return column.tolist()
