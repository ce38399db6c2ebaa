"""A Tree written entry by entry, without ever holding all of it as messages."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunking, chunks, entries, trees
from sidecar.agent.errors import NotCapturable
from sidecar.agent.fitting import expect_size
from sidecar.agent.scan import Found, Xattrs

#: Entries after which finished ones are serialised.
_BLOCK = 256
#: Serialised bytes that are held before chunks are made of them.
_HELD = 3 * chunks.MAX_LENGTH

Piece = tuple[bytes, int, int, int, int]
"""Digest and length of a chunk, where the piece begins in it, its length, its place in the file."""


class TreeWriter:
    """Collects entries in order; equal chunks get one row of the chunk table.

    Raises NotCapturable when the tree gets larger than a reader would take.

    Serialised messages may be concatenated (protobuf merges repeated fields in order), so the
    tree is built from blocks of entries, and its chunk table comes last. Of what is serialised,
    only what has not become a chunk yet is held.
    """

    def __init__(self, put: Callable[[memoryview], bytes], limits: trees.Limits) -> None:
        """Hand the tree's own chunks to `put`, which returns their digests."""
        self._put = put
        self._limits = limits
        self.digests = bytearray()
        self._own = bytearray()
        self._entries = 0
        self._serialised = 0
        self._pieces = 0
        self._lengths: list[int] = []
        self._rows: dict[bytes, int] = {}
        self._done = bytearray()
        self._block = cache_pb2.Tree()
        self.held = False
        """While true, entries may still get pieces: a bundle of their content is open."""

    @property
    def waiting(self) -> int:
        """Entries that are messages still, because they or others before them are held."""
        return len(self._block.entries)

    def add(self, found: Found, xattrs: Xattrs) -> cache_pb2.Entry:
        """Append an entry. Pieces may be added until the next call, or while `held`."""
        status = found.status
        mode = status.st_mode
        if len(self._block.entries) >= _BLOCK and not self.held:
            self._serialise()
        self._entries += 1
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
        """Add the pieces of an entry that may still get them, in file order."""
        if len(pieces) > 1:
            self._pieces += len(pieces)
            if self._pieces > trees.MAX_PIECES:
                raise NotCapturable(f"files in more than {trees.MAX_PIECES} pieces")
        for digest, chunk_length, chunk_offset, length, file_offset in pieces:
            entry.pieces.add(
                chunk=self._row(digest, chunk_length),
                chunk_offset=chunk_offset,
                length=length,
                file_offset=file_offset,
            )

    def finish(self) -> bytes:
        """Return the digests of the serialised Tree's chunks, concatenated."""
        self._serialise()
        self._append(cache_pb2.Tree(chunk_digests=bytes(self.digests), chunk_lengths=self._lengths))
        self._cut(0)
        return bytes(self._own)

    def _row(self, digest: bytes, length: int) -> int:
        row = self._rows.get(digest)
        if row is None:
            row = self._rows[digest] = len(self._lengths)
            self.digests += digest
            self._lengths.append(length)
        return row

    def _serialise(self) -> None:
        # An entry that alone is too large is in a block that is.
        if self._block.ByteSize() > entries.MAX_ENTRY:
            for entry in self._block.entries:
                if entry.ByteSize() > entries.MAX_ENTRY:
                    raise NotCapturable(f"{os.fsdecode(entry.path)!r} has too many pieces")
        self._append(self._block)
        self._block = cache_pb2.Tree()

    def _append(self, part: cache_pb2.Tree) -> None:
        serialised = part.SerializeToString()
        self._done += serialised
        self._serialised += len(serialised)
        expect_size(self._entries, self._serialised, self._limits)
        if len(self._lengths) > trees.MAX_CHUNKS:
            raise NotCapturable(f"a tree with content of more than {trees.MAX_CHUNKS} chunks")
        if len(self._done) > _HELD:
            self._cut(chunks.MAX_LENGTH)

    def _cut(self, rest: int) -> None:
        """Make chunks of what is serialised, as long as so many bytes are left to decide by."""
        taken = 0
        with memoryview(self._done) as done:
            for at, length in chunking.split(done):
                if len(done) - at < rest:
                    break
                self._own += self._put(done[at : at + length])
                taken = at + length
        del self._done[:taken]
