"""Equal files of two snapshots: those of the new one become hard links of the other's.

Only a file that both trees have under the same path is linked. So, however layers are stacked
later (BuildKit also merges snapshots that know nothing of each other), no mounted view shows two
names of one inode that were two files: `cp -a` or tar in a build step would keep them as one file,
and a write to one would change the other. For the same reason a file that has several names in its
own tree is never linked.
"""

from __future__ import annotations

import os
import stat
from typing import Self

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from sidecar.agent.dirfd import DIRECTORY, Directories
from sidecar.agent.layout import Layout


class Twins:
    """Finds the files of one tree in the layer of a sibling, and links them.

    The layer must be whole and never change again. A context manager, open while it links.
    """

    def __init__(self, layout: Layout, sibling: Layout, layer: bytes) -> None:
        """Look for files of `layout` in the directory `layer`, which is what `sibling` says.

        Raises OSError when the layer cannot be opened.
        """
        self._sibling = sibling
        self._paths = {entry.path: index for index, entry in _linkable(sibling).items()}
        self._linkable = _linkable(layout)
        rows = {digest: row for row, digest in enumerate(sibling.digests)}
        self._rows = [rows.get(digest, -1) for digest in layout.digests]
        self._directories = Directories(os.open(layer, DIRECTORY), sibling.parents, sibling.names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._directories.close()

    def link(self, index: int, name: bytes, dir_fd: int) -> bool:
        """Make entry `index` of the new tree a link, if the sibling has its equal.

        False when there is none or it cannot be linked: then it must be created, in the place of
        what may be there under its name.
        """
        entry = self._linkable.get(index)
        if entry is None:
            return False
        twin = self._paths.get(entry.path)
        if twin is None or not self._equal(entry, self._sibling.entries[twin]):
            return False
        try:
            source = self._directories.get(self._sibling.directories[twin])
            try:
                _link(source, name, dir_fd)
            except FileExistsError:
                # An earlier attempt's.
                os.unlink(name, dir_fd=dir_fd)
                _link(source, name, dir_fd)
        except OSError:
            # Too many links, another file system, a sibling that is being deleted: whatever
            # it is, the file can be written instead, and what stops that will be told.
            return False
        return True

    def _equal(self, entry: cache_pb2.Entry, twin: cache_pb2.Entry) -> bool:
        return (
            entry.size == twin.size
            and entry.mtime_ns == twin.mtime_ns
            and entry.mode == twin.mode
            and entry.uid == twin.uid
            and entry.gid == twin.gid
            and len(entry.pieces) == len(twin.pieces)
            and all(
                self._rows[piece.chunk] == other.chunk
                and piece.chunk_offset == other.chunk_offset
                and piece.length == other.length
                and piece.file_offset == other.file_offset
                for piece, other in zip(entry.pieces, twin.pieces, strict=True)
            )
            and entry.xattrs == twin.xattrs
        )


def _link(source: int, name: bytes, dir_fd: int) -> None:
    os.link(name, name, src_dir_fd=source, dst_dir_fd=dir_fd, follow_symlinks=False)


def _linkable(layout: Layout) -> dict[int, cache_pb2.Entry]:
    """Entries by index: regular files with content and a single name."""
    entries = layout.entries
    found = {
        index: entry
        for index, entry in enumerate(entries)
        if entry.pieces and stat.S_ISREG(entry.mode)
    }
    for entry in entries:
        if entry.hardlink:
            found.pop(entry.hardlink - 1, None)
    return found
