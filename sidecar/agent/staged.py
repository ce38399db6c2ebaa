"""Segments: staged files with stored chunks, read and verified."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from buildsvc.cache import chunks
from buildsvc.errors import CorruptObject


class StagedChunk(msgspec.Struct, frozen=True, array_like=True):
    """Where a chunk's stored bytes are in a segment; as in agent.proto, without the digest."""

    chunk: int
    offset: int
    stored: int


def read_chunks(
    path: bytes, staged: Iterable[StagedChunk], digests: Sequence[bytes], lengths: Sequence[int]
) -> Iterator[tuple[int, bytes | None]]:
    """Yield each chunk's index and its bytes, None when these are not what the digest says.

    `digests` and `lengths` are the object's own table, so what the segment claims does not
    matter. Raises CorruptObject for an index that is not in it, OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        for each in sorted(staged, key=lambda item: item.offset):
            index = each.chunk
            if not 0 <= index < len(digests):
                raise CorruptObject(f"chunk {index} of an object that has {len(digests)}")
            if not 0 < each.stored <= lengths[index]:
                yield index, None
                continue
            stored = os.pread(descriptor, each.stored, each.offset)
            try:
                data = chunks.decode(stored, lengths[index], digests[index])
            except CorruptObject:
                yield index, None
            else:
                yield index, data
    finally:
        os.close(descriptor)
