"""A parsed tree, indexed by what materialising it asks: which files a chunk goes to, and where."""

from __future__ import annotations

import os
import stat
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks, trees

#: Trees that a worker keeps parsed: it is given segments of several in turn.
KEPT_TREES = 4
#: Serialised bytes of several trees kept together. Linking holds all entries of two as messages,
#: which take twice that, and ten times if somebody wants it.
KEPT_BYTES = 8 << 20


class _Key(NamedTuple):
    path: bytes
    ino: int
    size: int
    mtime_ns: int


class Layout:
    """A valid tree's directories, numbered from the root's 0, and its files by chunk."""

    def __init__(self, tree: trees.ValidTree) -> None:
        """Index a tree."""
        self.entries = tree.entries
        self.lengths = tree.chunk_lengths
        self.digests = chunks.split_digests(tree.chunk_digests)
        self.parents = array("I")
        self.names: list[bytes] = []
        self.directories = array("I")
        """Number of an entry: the directory's own, for others that of the directory it is in."""
        self.directory_entries = array("I")
        """By directory: the index of its entry."""
        self.single: list[array[int]] = [array("I") for _ in self.lengths]
        """By chunk: indices of the files that are one piece, which is in it."""
        # Pieces of files that have several, three numbers each: the file's index, the piece's
        # number, and which of these was before it in the same chunk, from 1. By chunk: the last.
        self._scattered = array("I")
        self._last = array("I", bytes(4 * len(self.lengths)))
        self._index()

    def wanted(self, linked: bytes) -> list[int]:
        """Return the chunks without which an entry not in `linked` cannot be written."""
        if not linked:
            return list(range(len(self.lengths)))
        return [
            chunk
            for chunk, single in enumerate(self.single)
            if not all(linked[index] for index in single)
            or not all(linked[index] for index, _ in self.scattered(chunk))
        ]

    def scattered(self, chunk: int) -> Iterator[tuple[int, int]]:
        """Yield what of files of several pieces is in a chunk: file's index, piece's number."""
        scattered = self._scattered
        at = self._last[chunk]
        while at:
            index, which, at = scattered[3 * at - 3 : 3 * at]
            yield index, which

    def _index(self) -> None:
        # The directory of the entry before and those that it lies in: a subtree is in one run.
        around: list[tuple[bytes, int]] = []
        for index, entry in enumerate(self.entries):
            path = entry.path
            parent, _, name = path.rpartition(b"/")
            while around and around[-1][0] != parent:
                around.pop()
            number = around[-1][1] if path else 0
            if stat.S_ISDIR(entry.mode):
                around.append((path, len(self.names)))
                self.parents.append(number)
                number = len(self.names)
                self.names.append(name)
                self.directory_entries.append(index)
            self.directories.append(number)
            pieces = entry.pieces
            if len(pieces) == 1:
                self.single[pieces[0].chunk].append(index)
                continue
            for which, piece in enumerate(pieces):
                self._scattered.extend((index, which, self._last[piece.chunk]))
                self._last[piece.chunk] = len(self._scattered) // 3


class Layouts:
    """The trees used last, read from their files."""

    def __init__(self, kept: int = KEPT_TREES, kept_bytes: int = KEPT_BYTES) -> None:
        """Keep the last tree, and `kept` in all if these have at most `kept_bytes` serialised."""
        self._kept = kept
        self._kept_bytes = kept_bytes
        self._layouts: OrderedDict[_Key, Layout] = OrderedDict()

    def get(self, path: bytes, *, checked: bool = False) -> Layout:
        """Return the tree in a file, ``checked`` if a worker has done that: no one else writes it.

        Raises CorruptObject, OSError.
        """
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            key = _Key(path, status.st_ino, status.st_size, status.st_mtime_ns)
            if key in self._layouts:
                self._layouts.move_to_end(key)
                return self._layouts[key]
            self._make_room(key.size)
            data = file.read()
            layout = Layout(trees.reread(data) if checked else trees.parse(data))
            self._layouts[key] = layout
        return layout

    def beside(self, path: bytes, other: bytes) -> Layout | None:
        """Return the tree in `other`, or None if it is too large to be kept beside that in `path`.

        Raises CorruptObject, OSError.
        """
        if self._kept < 2 or os.stat(path).st_size + os.stat(other).st_size > self._kept_bytes:
            return None
        return self.get(other, checked=True)

    def _make_room(self, size: int) -> None:
        while self._layouts and (
            len(self._layouts) >= self._kept
            or size + sum(key.size for key in self._layouts) > self._kept_bytes
        ):
            self._layouts.popitem(last=False)


def last_name(entry: cache_pb2.Entry) -> bytes:
    """Return the last component of an entry's path."""
    return entry.path.rpartition(b"/")[2]
