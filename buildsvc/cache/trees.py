"""Trees: one directory with everything in it, as a protobuf message (cache.proto: Tree).

A tree comes from the store, so whoever wrote it is not trusted with more than its content:
nothing that passes ``parse`` names a path outside the directory, goes through a symbolic
link, or asks for bytes that no chunk has, or for more memory than its bounds allow. Entries are
in depth-first order, a directory's whole subtree right after it, so that one stack of directories
is enough to walk them.
"""

from __future__ import annotations

import stat
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import DIGEST_SIZE, MAX_LENGTH, Buffer
from buildsvc.cache.entries import Entries, read_fields
from buildsvc.errors import CorruptObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Limits(NamedTuple):
    """How large a tree may be: entries, bytes serialised, and bytes of a path."""

    entries: int
    size: int
    path: int


LIMITS = Limits(entries=600_000, size=64 << 20, path=64 << 10)
"""What a reader takes, and what needs at most 120 MB, the process that reads it included. Paths may
be longer than PATH_MAX: who changes directory on the way can nest deeper."""
MAX_CHUNKS = 1 << 17
"""Chunks of a tree's table: 130 GB of content."""
MAX_PIECES = 1 << 18
"""Pieces of a tree's files that have several: of these one that is not sparse has one a chunk."""
MAX_FILE = 0xFFFFFFFF << 12
"""Bytes of a file, holes included: what ext4 holds, 16 TiB. Larger ones exist elsewhere, but a
pod that cannot make one has no use for the layer."""
MAX_TARGET = 4095
"""Bytes of a symbolic link's target (PATH_MAX without the NUL)."""
MAX_NAME = 255
"""Bytes of a path's component and of an xattr's name (NAME_MAX, XATTR_NAME_MAX)."""
MAX_XATTR = 64 << 10
"""Bytes of an xattr's value (XATTR_SIZE_MAX)."""

_MAX_SUM = (1 << 63) - 1  # MAX_LFS_FILESIZE: bytes of all files fit a signed number of 64 bits
_NO_ID = 0xFFFFFFFF  # chown(2) takes it for "leave it"
_TYPES = frozenset(
    (
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
    )
)
_DEVICES = frozenset((stat.S_IFCHR, stat.S_IFBLK))
_DOTS = frozenset((b"", b".", b".."))


@dataclass(frozen=True)
class ValidTree:
    """A serialised tree that passed all checks; its entries are parsed when they are asked for."""

    chunk_digests: bytes
    chunk_lengths: Sequence[int]
    entries: Entries


def serialise(tree: cache_pb2.Tree) -> bytes:
    """The bytes of a tree; equal trees have equal bytes."""
    return tree.SerializeToString(deterministic=True)


def parse(data: Buffer) -> ValidTree:
    """The tree in ``data``, after all checks. Raises CorruptObject that names the entry.

    It refers to the data. Beside it, a tree takes some 20 MB of memory at most while it is used,
    and for the check 100 bytes for each entry of its largest directory.
    """
    tree = reread(data)
    _Walk(tree.chunk_lengths).check(tree.entries)
    return tree


def reread(data: Buffer) -> ValidTree:
    """The tree in ``data`` that ``parse`` has accepted, in this process or in one we trust.

    Takes a third of the time, since entries are not looked at. Raises CorruptObject.
    """
    if len(data) > LIMITS.size:
        raise CorruptObject(f"tree: {len(data)} bytes, more than {LIMITS.size}")
    digests, serialised_lengths, entries = read_fields(data, LIMITS.entries)
    lengths = _unpack(serialised_lengths, len(digests))
    if not entries:
        raise CorruptObject("tree: it has no root")
    return ValidTree(digests, lengths, entries)


def _unpack(serialised: bytes, digest_bytes: int) -> Sequence[int]:
    """The lengths of the chunks, one for each digest."""
    if digest_bytes > DIGEST_SIZE * MAX_CHUNKS or len(serialised) > 4 * MAX_CHUNKS:
        raise CorruptObject(f"tree: more than {MAX_CHUNKS} chunks")
    lengths = array("I")
    length = shift = 0
    for byte in serialised:
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            if not 0 < length <= MAX_LENGTH:
                break
            lengths.append(length)
            length = shift = 0
        elif shift > 21:
            break
    if shift or length:
        raise CorruptObject("tree: a chunk's length is out of range")
    if digest_bytes != DIGEST_SIZE * len(lengths):
        raise CorruptObject("tree: the columns of its chunk table differ in length")
    return lengths


class _EntryError(Exception):
    """What is wrong with an entry."""


class _Walk:
    """The checks that need to know the entries before."""

    def __init__(self, chunk_lengths: Sequence[int]) -> None:
        self._chunk_lengths = chunk_lengths
        # The directory of the entry before and those that it lies in, outermost first, each with
        # the names in it so far: one that was left does not come again. Of a name its hash is
        # kept, which is secret and of 64 bits: of a million names two have the same in one of
        # 37 million trees.
        self._open: list[tuple[bytes, set[int]]] = []
        # Whether an entry may be the target of a hard link, by index.
        self._linkable = bytearray()
        self._sum = 0
        self._pieces = 0

    def check(self, entries: Iterable[cache_pb2.Entry]) -> None:
        for number, entry in enumerate(entries):
            try:
                self._check_entry(entry)
            except _EntryError as error:
                raise CorruptObject(f"tree: entry {number} ({entry.path!r}): {error}") from None

    def _check_entry(self, entry: cache_pb2.Entry) -> None:
        mode = entry.mode
        kind = stat.S_IFMT(mode)
        if kind not in _TYPES or mode >= 1 << 16:
            raise _EntryError(f"mode {mode:o} is none")
        is_file = kind == stat.S_IFREG
        self._check_path(entry.path, is_directory=kind == stat.S_IFDIR)
        if _NO_ID in (entry.uid, entry.gid):
            raise _EntryError("owner out of range")
        hardlink = entry.hardlink
        if is_file:
            if hardlink:
                self._check_hardlink(entry, hardlink)
            elif entry.size or entry.pieces:
                self._check_pieces(entry)
        elif hardlink or entry.size or entry.pieces:
            raise _EntryError("content without a regular file")
        self._linkable.append(is_file and not hardlink)
        symlink = entry.symlink
        if symlink or kind == stat.S_IFLNK:
            _check_symlink(symlink, kind)
        if entry.rdev and kind not in _DEVICES:
            raise _EntryError("a device number without a device")
        if entry.xattrs:
            _check_xattrs(entry.xattrs)

    def _check_path(self, path: bytes, *, is_directory: bool) -> None:
        open_directories = self._open
        if not self._linkable:
            if path or not is_directory:
                raise _EntryError("the first entry is not the root directory")
            open_directories.append((path, set()))
            return
        if len(path) > LIMITS.path:
            raise _EntryError("the path is too long")
        parent, _, name = path.rpartition(b"/")
        # Everything before the name is checked by being equal to a directory's path.
        if name in _DOTS or len(name) > MAX_NAME or b"\0" in name:
            raise _EntryError("the path is malformed")
        while open_directories and open_directories[-1][0] != parent:
            open_directories.pop()
        if not open_directories:
            raise _EntryError("it does not follow its parent directory")
        # "/name" has the root's path for a parent, as "name" has.
        if not parent and len(path) != len(name):
            raise _EntryError("the path is absolute")
        names = open_directories[-1][1]
        known = len(names)
        names.add(hash(name))
        if len(names) == known:
            raise _EntryError("the path comes twice")
        if is_directory:
            open_directories.append((path, set()))

    def _check_hardlink(self, entry: cache_pb2.Entry, hardlink: int) -> None:
        if hardlink > len(self._linkable) or not self._linkable[hardlink - 1]:
            raise _EntryError("a hard link to what is no earlier regular file")
        if entry.size or entry.pieces:
            raise _EntryError("a hard link with content")

    def _check_pieces(self, entry: cache_pb2.Entry) -> None:
        lengths = self._chunk_lengths
        chunks = len(lengths)
        size = entry.size
        self._sum += size
        if size > MAX_FILE or self._sum > _MAX_SUM:
            raise _EntryError("the size is out of range")
        if len(entry.pieces) > 1:
            self._pieces += len(entry.pieces)
            if self._pieces > MAX_PIECES:
                raise _EntryError(f"more than {MAX_PIECES} pieces of files that have several")
        end = 0
        for piece in entry.pieces:
            chunk = piece.chunk
            length = piece.length
            start = piece.file_offset
            if chunk >= chunks or piece.chunk_offset + length > lengths[chunk]:
                raise _EntryError("a piece that is in no chunk")
            if not length or start < end:
                raise _EntryError("pieces that are empty, overlap or are out of order")
            end = start + length
        if end > size:
            raise _EntryError("a piece beyond the end of the file")


def _check_symlink(target: bytes, kind: int) -> None:
    if kind != stat.S_IFLNK:
        raise _EntryError("a link target without a symbolic link")
    if not target or len(target) > MAX_TARGET or b"\0" in target:
        raise _EntryError("the link target is malformed")


def _check_xattrs(xattrs: Sequence[cache_pb2.Xattr]) -> None:
    names = {xattr.name for xattr in xattrs}
    if len(names) != len(xattrs):
        raise _EntryError("an xattr comes twice")
    for xattr in xattrs:
        name = xattr.name
        if not name or len(name) > MAX_NAME or b"\0" in name:
            raise _EntryError("an xattr's name is malformed")
        if len(xattr.value) > MAX_XATTR:
            raise _EntryError("an xattr's value is too long")
