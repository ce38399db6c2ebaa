"""What a file was when it was last read, so that it need not be read again."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import NamedTuple

from sidecar.agent.scan import Xattrs
from sidecar.agent.treewriter import Piece

#: Files remembered in all, some 500 bytes each; while one is read again, twice as many.
LIMIT = 70_000

#: A file changed less than this before it was read may change again without a new timestamp
#: (the kernel's clock for files ticks every few milliseconds), so it is not remembered.
RACY_NS = 50_000_000


class Remembered(NamedTuple):
    """A regular file's inode data and what was made of its content."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    xattrs: Xattrs
    pieces: tuple[Piece, ...]

    def still(self, status: os.stat_result) -> bool:
        """Whether the file is the one remembered, unchanged."""
        return (
            self.ctime_ns == status.st_ctime_ns
            and self.mtime_ns == status.st_mtime_ns
            and self.size == status.st_size
            and self.ino == status.st_ino
        )


class StatCache:
    """Files by path, for each snapshot's name; what was captured longest ago is dropped first."""

    def __init__(self, limit: int = LIMIT) -> None:
        """Remember at most `limit` files in all."""
        self._limit = limit
        self._files: OrderedDict[str, dict[bytes, Remembered]] = OrderedDict()

    def files(self, name: str) -> dict[bytes, Remembered]:
        """Return what is remembered of a snapshot, empty for an unknown one."""
        return self._files.get(name, {})

    def remember(self, name: str, files: dict[bytes, Remembered]) -> None:
        """Replace what is known of a snapshot."""
        self._files[name] = files
        self._files.move_to_end(name)
        total = sum(map(len, self._files.values()))
        while total > self._limit:
            total -= len(self._files.popitem(last=False)[1])
