"""Writes a bbolt database again without some of what is in it, pages packed and none free.

An element cannot be taken out where it lies: the first key of a page is in the pages above it, and
bbolt goes by both. Source of the format: as in `boltpages`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildsvc.cache.bolt import Bucket, Database
from buildsvc.cache.boltpages import (
    BRANCH,
    BRANCH_ELEMENT,
    BUCKET,
    FREELIST,
    LEAF,
    LEAF_ELEMENT,
    MAGIC,
    META,
    META_BODY,
    NESTED,
    PAGE,
    VERSION,
    fnv64a,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Keys = tuple[bytes, ...]

_FREELIST_PAGE, _FIRST = 2, 3
#: Elements that bbolt wants in a page at least.
_FEWEST = 2


def rewrite(path: Path, keep: Callable[[Keys], bool]) -> None:
    """Write a database that nobody has open again, with what `keep` says of each path of keys.

    A bucket that is not kept goes with everything in it. The file is there whole, as it was or as
    it becomes. Raises CorruptObject for what is not whole (`bolt.check` finds more), OSError.
    """
    with Database(path) as database:
        writer = _Writer(database.page_size)
        root = writer.bucket(database.root, (), keep)
        content = writer.content(root, database.txid)
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=0o600)
    new.write_bytes(content)
    os.replace(new, path)


@dataclass(frozen=True)
class _Element:
    """One of a page: in a leaf with a value, in a branch with the number of a page."""

    key: bytes
    value: bytes = b""
    flags: int = 0
    child: int = 0

    @property
    def size(self) -> int:
        return LEAF_ELEMENT.size + len(self.key) + len(self.value)


class _Writer:
    def __init__(self, page_size: int) -> None:
        self._size = page_size
        self._pages = bytearray()

    def bucket(self, bucket: Bucket, path: Keys, keep: Callable[[Keys], bool]) -> int:
        """Write what is kept of a bucket; answers the number of its root page."""
        elements = []
        for key, value in bucket.items():
            inner = (*path, key)
            if not keep(inner):
                continue
            if isinstance(value, Bucket):
                header = BUCKET.pack(self.bucket(value, inner, keep), value.sequence)
                elements.append(_Element(key, header, NESTED))
            else:
                elements.append(_Element(key, value))
        level = self._level(LEAF, elements)
        while len(level) > 1:
            level = self._level(BRANCH, level)
        return level[0].child

    def content(self, root: int, txid: int) -> bytes:
        """The whole file."""
        end = _FIRST + len(self._pages) // self._size
        listing = PAGE.pack(_FREELIST_PAGE, FREELIST, 0, 0)
        # Each transaction writes one of the two, by turns.
        metas = [self._meta(root, end, txid - (txid + number) % 2) for number in (0, 1)]
        return b"".join(map(self._padded, (*metas, listing))) + self._pages

    def _level(self, kind: int, elements: list[_Element]) -> list[_Element]:
        """Write the pages for these, and answer what the level above them has."""
        groups: list[list[_Element]] = [[]]
        free = self._size - PAGE.size
        for element in elements:
            if element.size > free and len(groups[-1]) >= _FEWEST:
                groups.append([])
                free = self._size - PAGE.size
            groups[-1].append(element)
            free -= element.size
        return [_Element(self._first(group), child=self._page(kind, group)) for group in groups]

    @staticmethod
    def _first(group: list[_Element]) -> bytes:
        return group[0].key if group else b""

    def _page(self, kind: int, elements: list[_Element]) -> int:
        number = _FIRST + len(self._pages) // self._size
        table, content = bytearray(), bytearray()
        for index, one in enumerate(elements):
            # From the element's own place in the table.
            position = (len(elements) - index) * LEAF_ELEMENT.size + len(content)
            if kind == LEAF:
                table += LEAF_ELEMENT.pack(one.flags, position, len(one.key), len(one.value))
            else:
                table += BRANCH_ELEMENT.pack(position, len(one.key), one.child)
            content += one.key + one.value
        further = (PAGE.size + len(table) + len(content) - 1) // self._size
        header = PAGE.pack(number, kind, len(elements), further)
        self._pages += self._padded(header + table + content)
        return number

    def _meta(self, root: int, end: int, txid: int) -> bytes:
        head = (MAGIC, VERSION, self._size, 0, root, 0, _FREELIST_PAGE, end, txid)
        body = META_BODY.pack(*head, 0)[:-8]
        return PAGE.pack(txid % 2, META, 0, 0) + META_BODY.pack(*head, fnv64a(body))

    def _padded(self, data: bytes) -> bytes:
        return data + bytes(-len(data) % self._size)
