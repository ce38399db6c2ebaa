"""One directory's way into chunks: its small files bundled, its large ones cut, its tree last."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

from buildsvc.cache import chunking, trees
from sidecar.agent.bundle import Bundle, Member
from sidecar.agent.dirfd import Directories
from sidecar.agent.fitting import expect_entry
from sidecar.agent.reading import Extent, FileReader
from sidecar.agent.scan import VANISHED, Found, Scan, Xattrs, changed, read_xattrs
from sidecar.agent.sink import ChunkSink
from sidecar.agent.statcache import LIMIT, RACY_NS, Remembered
from sidecar.agent.treewriter import Piece, TreeWriter

#: Entries that wait for the open bundle at most: files without content fill none.
_WAITING = 16384


@dataclass(frozen=True)
class CapturedTree:
    """Digests of a tree's own chunks and of its content's, concatenated.

    The usage is in bytes and inodes, as containerd counts it.
    """

    tree_digests: bytes
    data_digests: bytes
    usage_bytes: int
    usage_inodes: int


class TreeCapture:
    """Captures one directory, once."""

    def __init__(
        self,
        root: int,
        sink: ChunkSink,
        window: Callable[[], bytearray],
        before: Mapping[bytes, Remembered] | None,
        *,
        grain: chunking.Grain,
        limits: trees.Limits,
    ) -> None:
        """Capture the open directory `root`; `before` is what an earlier capture read.

        With `before` None nothing is remembered, else `read` is it for the next capture.
        """
        self.read: dict[bytes, Remembered] = {}
        self._sink = sink
        self._limits = limits
        self._window = window
        self._grain = grain
        self._before = before or {}
        self._remembers = LIMIT if before is not None else 0
        self._racy_since = time.time_ns() - RACY_NS
        self._scan = Scan(root)
        self._again = Directories(os.dup(root), self._scan.parents, self._scan.names)
        self._tree = TreeWriter(sink.put, limits)
        self._bundle = Bundle()

    def run(self) -> CapturedTree:
        """Read everything. Raises ChangedWhileReading, NotCapturable, OSError."""
        try:
            for found in self._scan:
                expect_entry(found, self._limits)
                if self._tree.waiting >= _WAITING:
                    self._close_bundle()
                if found.link < 0 and stat.S_ISREG(found.status.st_mode):
                    self._file(found)
                else:
                    self._other(found)
            self._close_bundle()
        finally:
            self._again.close()
        return self._captured()

    def run_bare(self) -> CapturedTree:
        """Read the directory itself only. Raises ChangedWhileReading, OSError."""
        try:
            with closing(iter(self._scan)) as found:
                self._other(next(found))
        finally:
            self._again.close()
        return self._captured()

    def _captured(self) -> CapturedTree:
        return CapturedTree(
            self._tree.finish(),
            bytes(self._tree.digests),
            self._scan.usage_bytes,
            self._scan.usage_inodes,
        )

    def _other(self, found: Found) -> None:
        """Add what is no regular file, or another name of one."""
        mode = found.status.st_mode
        xattrs: Xattrs = ()
        try:
            if stat.S_ISDIR(mode):
                xattrs = read_xattrs(found.dir_fd)
            elif not stat.S_ISREG(mode) and not stat.S_ISLNK(mode) and not _is_whiteout(found):
                xattrs = read_xattrs(b"/proc/self/fd/%d/%s" % (found.dir_fd, found.name))
            entry = self._tree.add(found, xattrs)
            if stat.S_ISLNK(mode):
                entry.symlink = os.readlink(found.name, dir_fd=found.dir_fd)
        except OSError as error:
            if error.errno in VANISHED:
                raise changed(found.path) from error
            raise

    def _file(self, found: Found) -> None:
        status = found.status
        before = self._before.get(found.path)
        if before is not None and before.still(status):
            self._unread(found, before)
            return
        with FileReader(found.name, found.dir_fd, found.path, status) as file:
            xattrs = file.xattrs()
            extents = file.extents()
            if not extents:
                self._tree.add(found, xattrs)
                self._remember(found, xattrs, [])
            elif status.st_size <= self._grain.minimum:
                content = b"".join([file.read(offset, length) for offset, length in extents])
                self._small(found, xattrs, extents, content, None)
            else:
                pieces = self._cut(file, extents)
                self._tree.extend(self._tree.add(found, xattrs), pieces)
                self._remember(found, xattrs, pieces)

    def _unread(self, found: Found, before: Remembered) -> None:
        """Add a file that is what it was."""
        if before.pieces and before.size <= self._grain.minimum:
            extents = [(piece[4], piece[3]) for piece in before.pieces]
            self._small(found, before.xattrs, extents, None, before)
        else:
            self._tree.extend(self._tree.add(found, before.xattrs), list(before.pieces))
            self._remember(found, before.xattrs, before.pieces)

    def _small(
        self,
        found: Found,
        xattrs: Xattrs,
        extents: list[Extent],
        content: bytes | None,
        before: Remembered | None,
    ) -> None:
        length = sum(extent[1] for extent in extents)
        if self._bundle.ends_before(found.path, length):
            self._close_bundle()
        entry = self._tree.add(found, xattrs)
        self._tree.held = True
        self._bundle.add(Member(found, entry, xattrs, extents, length, content, before))

    def _close_bundle(self) -> None:
        bundle = self._bundle
        if not bundle.members:
            return
        digest = bundle.as_before() or self._sink.put(bundle.content(self._read_again))
        for member, pieces in bundle.take(digest):
            self._tree.extend(member.entry, pieces)
            self._remember(member.found, member.xattrs, pieces)
        self._tree.held = False

    def _read_again(self, member: Member) -> bytes:
        """Read a file that had not changed, but whose bundle has."""
        found = member.found
        try:
            dir_fd = self._again.get(found.directory)
        except OSError as error:
            if error.errno in VANISHED:
                raise changed(found.path) from error
            raise
        with FileReader(found.name, dir_fd, found.path, found.status) as file:
            return b"".join([file.read(offset, length) for offset, length in member.extents])

    def _cut(self, file: FileReader, extents: list[Extent]) -> list[Piece]:
        """Make chunks of a large file; the scattered small ranges of a sparse one share some."""
        pieces: list[Piece] = []
        shared = bytearray()
        sharing: list[Extent] = []

        def close() -> None:
            digest = self._sink.put(shared) if shared else b""
            at = 0
            for start, length in sharing:
                pieces.append((digest, len(shared), at, length, start))
                at += length
            sharing.clear()
            shared.clear()

        for start, length in extents:
            if length > self._grain.minimum:
                for offset, view in file.chunks(start, length, self._window(), self._grain):
                    pieces.append((self._sink.put(view), len(view), 0, len(view), offset))
                continue
            if len(shared) + length > chunking.BUNDLE_MAX:
                close()
            shared += file.read(start, length)
            sharing.append((start, length))
        close()
        return sorted(pieces, key=lambda piece: piece[4])

    def _remember(
        self, found: Found, xattrs: Xattrs, pieces: list[Piece] | tuple[Piece, ...]
    ) -> None:
        status = found.status
        if len(self.read) < self._remembers and status.st_ctime_ns < self._racy_since:
            self.read[found.path] = Remembered(
                status.st_ino,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                xattrs,
                tuple(pieces),
            )


def _is_whiteout(found: Found) -> bool:
    return stat.S_ISCHR(found.status.st_mode) and found.status.st_rdev == 0
