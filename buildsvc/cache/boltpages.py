"""Pages of a bbolt database file: meta pages, free pages, and the elements of B+tree pages.

Source: go.etcd.io/bbolt, file format version 2. All integers are little-endian.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildsvc.errors import CorruptObject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BRANCH, LEAF, FREELIST = 0x01, 0x02, 0x10
"""Kinds of pages."""

META = 0x04
"""Kind of the two pages that say where everything begins."""
MAGIC, VERSION = 0xED0CDAED, 2
NESTED = 0x01
"""Flag of a leaf's element whose value is a bucket."""
_NO_FREELIST = 0xFFFFFFFFFFFFFFFF
_COUNT_FOLLOWS = 0xFFFF
_LARGEST_PAGE_SHIFT = 7

PAGE = struct.Struct("<QHHI")
"""Number, kind, count of elements, further pages."""
META_BODY = struct.Struct("<IIIIQQQQQQ")
"""Magic, version, page size, flags, root page, its sequence, free list, end, txid, checksum."""
BRANCH_ELEMENT = struct.Struct("<IIQ")
"""Position, key size, page."""
LEAF_ELEMENT = struct.Struct("<IIII")
"""Flags, position, key size, value size."""
BUCKET = struct.Struct("<QQ")
"""Root page, sequence."""


@dataclass(frozen=True)
class Meta:
    """What a meta page says; `end` is the first page number never used."""

    page_size: int
    root: int
    freelist: int
    end: int
    txid: int


@dataclass(frozen=True)
class Page:
    """One page with its overflow, or the page inside an inline bucket's value."""

    data: memoryview
    kind: int
    count: int
    length: int
    """Pages that it takes up; 0 for an inline one."""
    name: str

    def children(self) -> Iterator[tuple[bytes, int]]:
        """Elements of a branch: the first key of each child and its page number."""
        for offset, (position, key_size, child) in self._elements(BRANCH_ELEMENT):
            yield bytes(self._slice(offset + position, key_size)), child

    def entries(self) -> Iterator[tuple[bytes, memoryview, bool]]:
        """Elements of a leaf: key, value, and whether the value is a nested bucket."""
        for offset, (flags, position, key_size, value_size) in self._elements(LEAF_ELEMENT):
            start = offset + position
            key = bytes(self._slice(start, key_size))
            yield key, self._slice(start + key_size, value_size), bool(flags & NESTED)

    def _elements(self, element: struct.Struct) -> Iterator[tuple[int, tuple[int, ...]]]:
        table = self._slice(PAGE.size, self.count * element.size)
        for index, fields in enumerate(element.iter_unpack(table)):
            yield PAGE.size + index * element.size, fields

    def _slice(self, start: int, size: int) -> memoryview:
        if start + size > len(self.data):
            raise CorruptObject(f"{self.name}: an element reaches beyond its page")
        return self.data[start : start + size]


class PageFile:
    """The pages of a file, copied out of a mapping as they are asked for.

    Raises CorruptObject for what is not a database or not in its format, OSError for what cannot
    be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise self.corrupt("an empty file, not a bolt database")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self.meta = self._newest_meta()
        except BaseException:
            self._map.close()
            raise

    def close(self) -> None:
        self._map.close()

    def corrupt(self, reason: str) -> CorruptObject:
        """The error that says so of this file."""
        return CorruptObject(f"{self._path}: {reason}")

    def page(self, number: int) -> Page:
        """A page other than a meta page."""
        size, end = self.meta.page_size, self.meta.end
        if not 2 <= number < end or (number + 1) * size > len(self._map):
            raise self.corrupt(f"page {number} is out of bounds")
        identity, kind, count, overflow = PAGE.unpack_from(self._map, number * size)
        if identity != number:
            raise self.corrupt(f"page {number} says that it is page {identity}")
        last = number + overflow + 1
        if last > end or last * size > len(self._map):
            raise self.corrupt(f"page {number} is longer than the file")
        data = memoryview(self._map[number * size : last * size])
        return Page(data, kind, count, overflow + 1, f"{self._path}: page {number}")

    def bucket_root(self, value: memoryview) -> tuple[Page | int, int]:
        """Where a nested bucket's tree begins, an inline leaf or a page number; its sequence."""
        if len(value) < BUCKET.size:
            raise self.corrupt("a nested bucket has no header")
        root, sequence = BUCKET.unpack_from(value)
        if root:
            return int(root), sequence
        data = value[BUCKET.size :]
        if len(data) < PAGE.size:
            raise self.corrupt("an inline bucket has no page")
        _, kind, count, _ = PAGE.unpack_from(data)
        if kind != LEAF:
            raise self.corrupt("an inline bucket's page is not a leaf")
        return Page(data, kind, count, 0, f"{self._path}: an inline bucket"), sequence

    def free_pages(self) -> tuple[set[int], range]:
        """The pages listed as free, and those that the list takes up."""
        number = self.meta.freelist
        if number == _NO_FREELIST:
            return set(), range(0)
        page = self.page(number)
        if page.kind != FREELIST:
            raise self.corrupt(f"page {number} is not a list of free pages")
        start, count = PAGE.size, page.count
        if count == _COUNT_FOLLOWS:
            (count,) = struct.unpack_from("<Q", page.data, start)
            start += 8
        if start + 8 * count > len(page.data):
            raise self.corrupt("the list of free pages is longer than its page")
        free = set(struct.unpack_from(f"<{count}Q", page.data, start))
        if len(free) != count:
            raise self.corrupt("a page is listed as free twice")
        return free, range(number, number + page.length)

    def check_size(self) -> None:
        """All pages that are or were in use must be in the file."""
        if self.meta.end * self.meta.page_size > len(self._map):
            raise self.corrupt(
                f"{self.meta.end} pages of {self.meta.page_size} bytes do not fit the file"
            )

    def _newest_meta(self) -> Meta:
        first = self._meta(0)
        if first is not None:
            second = self._meta(first.page_size)
        else:
            # The page size is in what cannot be trusted: try those that there are.
            found = (self._meta(1024 << shift) for shift in range(_LARGEST_PAGE_SHIFT))
            second = next((meta for meta in found if meta is not None), None)
        valid = [meta for meta in (first, second) if meta is not None]
        if not valid:
            raise self.corrupt("no valid meta page, not a bolt database")
        return max(valid, key=lambda meta: meta.txid)

    def _meta(self, offset: int) -> Meta | None:
        """The meta page at an offset, None unless it is valid."""
        body = self._map[offset + PAGE.size : offset + PAGE.size + META_BODY.size]
        if len(body) < META_BODY.size:
            return None
        magic, version, size, _, root, _, freelist, end, txid, checksum = META_BODY.unpack(body)
        if (magic, version) != (MAGIC, VERSION) or size < 1024 or checksum != fnv64a(body[:-8]):
            return None
        return Meta(size, root, freelist, end, txid)


def check_order(keys: list[bytes], low: bytes, high: bytes | None, page: Page) -> None:
    """Raises CorruptObject unless the keys ascend and are in [low, high)."""
    ascending = all(before < after for before, after in itertools.pairwise(keys))
    if keys and not (ascending and low <= keys[0] and (high is None or keys[-1] < high)):
        raise CorruptObject(f"{page.name}: keys are not in order")


def fnv64a(data: bytes) -> int:
    """The checksum of a meta page's body."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
