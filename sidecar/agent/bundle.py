"""Small files that share a chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunking
from sidecar.agent.reading import Extent
from sidecar.agent.scan import Found, Xattrs
from sidecar.agent.statcache import Remembered
from sidecar.agent.treewriter import Piece

#: Files after which a boundary ends a bundle, however small they are, and which it has at most:
#: all of them are held until their chunk has a name.
_FILES_MIN = 4096
_FILES_MAX = 16384


@dataclass(slots=True)
class Member:
    """A small file in the open bundle; `content` is None while it is known from an earlier read."""

    found: Found
    entry: cache_pb2.Entry
    xattrs: Xattrs
    extents: list[Extent]
    length: int
    content: bytes | None
    before: Remembered | None


class Bundle:
    """The open bundle: files in path order, concatenated without their holes."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._size = 0

    def ends_before(self, path: bytes, length: int) -> bool:
        """Whether the bundle must be closed before this file is added.

        The decision hangs on the last two components of the path, so that a tree copied to
        another directory falls into the same bundles.
        """
        files = len(self.members)
        if self._size + length > chunking.BUNDLE_MAX or files >= _FILES_MAX:
            return bool(files)
        return (
            self._size >= chunking.BUNDLE_MIN or files >= _FILES_MIN
        ) and chunking.bundle_boundary(b"/".join(path.rsplit(b"/", 2)[-2:]))

    def add(self, member: Member) -> None:
        """Append a file."""
        self.members.append(member)
        self._size += member.length

    def as_before(self) -> bytes | None:
        """Digest of the chunk if exactly these files made one when last read."""
        first = self.members[0].before
        if first is None or not first.pieces:
            return None
        digest, length = first.pieces[0][:2]
        offset = 0
        for member in self.members:
            before = member.before
            if before is None:
                return None
            for piece in before.pieces:
                if piece[0] != digest or piece[2] != offset:
                    return None
                offset += piece[3]
        return digest if offset == length else None

    def content(self, read: Callable[[Member], bytes]) -> bytes:
        """Return the concatenated content, calling `read` for what was not read yet."""
        return b"".join(
            [read(each) if each.content is None else each.content for each in self.members]
        )

    def take(self, digest: bytes) -> list[tuple[Member, list[Piece]]]:
        """Return each file with its pieces, now that the chunk has a name; start anew."""
        size = self._size
        placed = []
        offset = 0
        for member in self.members:
            pieces: list[Piece] = []
            for start, length in member.extents:
                pieces.append((digest, size, offset, length, start))
                offset += length
            placed.append((member, pieces))
        self.members = []
        self._size = 0
        return placed
