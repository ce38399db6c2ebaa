"""A Tree written entry by entry, without ever holding all of it as messages."""

from __future__ import annotations

import stat

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import trees
from sidecar.agent.errors import NotCapturable
from sidecar.agent.scan import Found, Xattrs

#: Entries after which finished ones are serialised.
_BLOCK = 256

Piece = tuple[bytes, int, int, int, int]
"""Digest and length of a chunk, where the piece begins in it, its length, its place in the file."""


class TreeWriter:
    """Collects entries in order; equal chunks get one row of the chunk table.

    Raises NotCapturable when the tree gets larger than a reader would take.

    Serialised messages may be concatenated (protobuf merges repeated fields in order), so the
    tree is built from blocks of entries, and its chunk table comes last.
    """

    def __init__(self) -> None:
        self.digests = bytearray()
        self._lengths: list[int] = []
        self._rows: dict[bytes, int] = {}
        self._done = bytearray()
        self._block = cache_pb2.Tree()
        self.held = False
        """While true, entries may still get pieces: a bundle of their content is open."""

    def add(self, found: Found, xattrs: Xattrs) -> cache_pb2.Entry:
        """Append an entry. Pieces may be added until the next call, or while `held`."""
        status = found.status
        mode = status.st_mode
        if len(self._block.entries) >= _BLOCK and not self.held:
            self._serialise()
        entry = self._block.entries.add(
            path=found.path,
            mode=mode,
            uid=status.st_uid,
            gid=status.st_gid,
            mtime_ns=status.st_mtime_ns,
        )
        for name, value in xattrs:
            entry.xattrs.add(name=name, value=value)
        if stat.S_ISREG(mode):
            if found.link >= 0:
                entry.hardlink = found.link + 1
            else:
                entry.size = status.st_size
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            entry.rdev = status.st_rdev
        return entry

    def extend(self, entry: cache_pb2.Entry, pieces: list[Piece]) -> None:
        """Add pieces, in file order, to an entry that may still get some."""
        for digest, chunk_length, chunk_offset, length, file_offset in pieces:
            entry.pieces.add(
                chunk=self._row(digest, chunk_length),
                chunk_offset=chunk_offset,
                length=length,
                file_offset=file_offset,
            )

    def finish(self) -> bytearray:
        """Return the serialised Tree."""
        self._serialise()
        self._append(cache_pb2.Tree(chunk_digests=bytes(self.digests), chunk_lengths=self._lengths))
        return self._done

    def _row(self, digest: bytes, length: int) -> int:
        row = self._rows.get(digest)
        if row is None:
            row = self._rows[digest] = len(self._lengths)
            self.digests += digest
            self._lengths.append(length)
        return row

    def _serialise(self) -> None:
        self._append(self._block)
        self._block = cache_pb2.Tree()

    def _append(self, part: cache_pb2.Tree) -> None:
        self._done += part.SerializeToString()
        if len(self._done) > trees.MAX_TREE:
            raise NotCapturable(f"a tree of more than {trees.MAX_TREE} bytes")
