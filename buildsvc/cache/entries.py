"""A serialised tree's entries, parsed a few hundred at a time.

As messages entries take twice their serialised bytes, and where somebody wants it far more: two
bytes are an empty entry of 112. So no tree is ever parsed whole; whoever reads one holds its bytes
and some blocks of messages.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

from google.protobuf.message import DecodeError

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.errors import CorruptObject

if TYPE_CHECKING:
    from buildsvc.cache.chunks import Buffer

MAX_ENTRY = 1 << 20
"""Bytes of a serialised entry: some 70,000 pieces. Hostile, it takes 28 times that in memory."""

_BLOCK_ENTRIES = 256
_BLOCK_BYTES = 64 << 10
_KEPT_BYTES = 512 << 10  # of blocks that stay parsed: 5,000 entries, 16 times that if hostile

# Tags of Tree's fields in cache.proto, all of them length-delimited.
_DIGESTS, _LENGTHS, _ENTRY = 0x0A, 0x12, 0x1A


class Fields(NamedTuple):
    """A serialised tree's fields; lengths as they are serialised."""

    chunk_digests: bytes
    chunk_lengths: bytes
    entries: Entries


class Entries(Sequence[cache_pb2.Entry]):
    """The entries of a serialised tree; reading one raises CorruptObject where it is none."""

    def __init__(
        self, data: Buffer, blocks: Sequence[tuple[int, int]], end: int, count: int
    ) -> None:
        """Blocks begin at a byte with an entry's number; ``end`` is where the last one ends."""
        self._data = data
        self._firsts = array("I", (first for _, first in blocks))
        self._starts = array("I", (*(start for start, _ in blocks), end))
        self._count = count
        self._kept: OrderedDict[int, cache_pb2.Tree] = OrderedDict()
        self._kept_bytes = 0

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> cache_pb2.Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[cache_pb2.Entry]: ...
    def __getitem__(self, index: int | slice) -> cache_pb2.Entry | Sequence[cache_pb2.Entry]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(self._count))]
        if index < 0:
            index += self._count
        if not 0 <= index < self._count:
            raise IndexError(index)
        block = bisect_right(self._firsts, index) - 1
        return self._block(block)[index - self._firsts[block]]

    def __iter__(self) -> Iterator[cache_pb2.Entry]:
        for block in range(len(self._firsts)):
            yield from self._block(block)

    def _block(self, number: int) -> Sequence[cache_pb2.Entry]:
        found = self._kept.get(number)
        if found is None:
            start, end = self._starts[number], self._starts[number + 1]
            try:
                found = cache_pb2.Tree.FromString(bytes(self._data[start:end]))
            except DecodeError as error:
                raise CorruptObject(f"tree: {error}") from error
            self._kept[number] = found
            self._kept_bytes += end - start
            while self._kept_bytes > _KEPT_BYTES and len(self._kept) > 1:
                oldest, _ = self._kept.popitem(last=False)
                self._kept_bytes -= self._starts[oldest + 1] - self._starts[oldest]
        return found.entries


def read_fields(data: Buffer, most: int) -> Fields:
    """The fields of a tree that has its entries, at most so many, in one run.

    Raises CorruptObject. Parses nothing, so it takes 30 ns an entry's byte and no memory.
    """
    others: dict[int, bytes] = {}
    blocks: list[tuple[int, int]] = []
    count = at = begin = end = 0
    size = len(data)
    try:
        while at < size:
            tag = data[at]
            length = data[at + 1]
            start = at + 2
            if length > 127:
                length, start = _long(data, start, length)
            following = start + length
            data[following - 1]
            if tag == _ENTRY:
                if length > MAX_ENTRY or count == most:
                    raise CorruptObject("tree: an entry too large, or too many of them")
                if count and end != at:
                    raise CorruptObject("tree: something lies between its entries")
                if (
                    not blocks
                    or count - blocks[-1][1] == _BLOCK_ENTRIES
                    or (following - begin > _BLOCK_BYTES)
                ):
                    blocks.append((at, count))
                    begin = at
                count += 1
                end = following
            elif tag not in (_DIGESTS, _LENGTHS) or tag in others:
                raise CorruptObject("tree: a field that is none, or comes twice")
            else:
                others[tag] = bytes(data[start:following])
            at = following
    except IndexError:
        raise CorruptObject("tree: it ends within a field") from None
    entries = Entries(data, blocks, end, count)
    return Fields(others.get(_DIGESTS, b""), others.get(_LENGTHS, b""), entries)


def _long(data: Buffer, at: int, first: int) -> tuple[int, int]:
    """A length of more than a byte, and where it ends."""
    length, shift = first & 127, 7
    while shift < 35:
        byte = data[at]
        length |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return length, at
        shift += 7
    raise CorruptObject("tree: a length out of range")
