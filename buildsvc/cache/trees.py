"""Trees: one directory with everything in it, as a protobuf message (cache.proto: Tree).

A tree comes from the store, so whoever wrote it is not trusted with more than its content:
nothing that passes ``parse`` names a path outside the directory, goes through a symbolic
link, or asks for bytes that no chunk has. Entries are in depth-first order, a directory's
whole subtree right after it, so that one stack of directories is enough to walk them.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import DIGEST_SIZE, MAX_LENGTH
from buildsvc.errors import CorruptObject

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TREE = 32 << 20
"""Bytes of a serialised tree: some 400,000 entries, which take four times that in memory."""
MAX_PATH = 64 << 10
"""Bytes of a path. More than PATH_MAX: who changes directory on the way can nest deeper."""
MAX_TARGET = 4095
"""Bytes of a symbolic link's target (PATH_MAX without the NUL)."""
MAX_NAME = 255
"""Bytes of a path's component and of an xattr's name (NAME_MAX, XATTR_NAME_MAX)."""
MAX_XATTR = 64 << 10
"""Bytes of an xattr's value (XATTR_SIZE_MAX)."""

_MAX_FILE = (1 << 63) - 1
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


def serialise(tree: cache_pb2.Tree) -> bytes:
    """The bytes of a tree; equal trees have equal bytes."""
    return tree.SerializeToString(deterministic=True)


def parse(data: bytes) -> cache_pb2.Tree:
    """The tree in ``data``, after all checks. Raises CorruptObject."""
    if len(data) > MAX_TREE:
        raise CorruptObject(f"tree: {len(data)} bytes, more than {MAX_TREE}")
    try:
        tree = cache_pb2.Tree.FromString(data)
    except DecodeError as error:
        raise CorruptObject(f"tree: {error}") from error
    validate(tree)
    return tree


def chunk_digest(tree: cache_pb2.Tree, chunk: int) -> bytes:
    """The digest of a chunk of the tree's table."""
    return tree.chunk_digests[chunk * DIGEST_SIZE : (chunk + 1) * DIGEST_SIZE]


def validate(tree: cache_pb2.Tree) -> None:
    """Checks that the tree can be materialised. Raises CorruptObject that names the entry."""
    lengths = list(tree.chunk_lengths)
    if len(tree.chunk_digests) != DIGEST_SIZE * len(lengths):
        raise CorruptObject("tree: the columns of its chunk table differ in length")
    if not all(0 < length <= MAX_LENGTH for length in lengths):
        raise CorruptObject("tree: a chunk's length is out of range")
    if not tree.entries:
        raise CorruptObject("tree: it has no root")
    _Walk(lengths).check(tree.entries)


class _EntryError(Exception):
    """What is wrong with an entry."""


class _Walk:
    """The checks that need to know the entries before."""

    def __init__(self, chunk_lengths: list[int]) -> None:
        self._chunk_lengths = chunk_lengths
        self._paths: set[bytes] = set()
        # The directory of the entry before and those that it lies in, outermost first.
        self._open: list[bytes] = []
        # Whether an entry may be the target of a hard link, by index.
        self._linkable: list[bool] = []

    def check(self, entries: Sequence[cache_pb2.Entry]) -> None:
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
            open_directories.append(path)
            return
        if len(path) > MAX_PATH:
            raise _EntryError("the path is too long")
        parent, _, name = path.rpartition(b"/")
        # Everything before the name is checked by being equal to a directory's path.
        if name in _DOTS or len(name) > MAX_NAME or b"\0" in name:
            raise _EntryError("the path is malformed")
        while open_directories and open_directories[-1] != parent:
            open_directories.pop()
        if not open_directories:
            raise _EntryError("it does not follow its parent directory")
        # "/name" has the root's path for a parent, as "name" has.
        if not parent and len(path) != len(name):
            raise _EntryError("the path is absolute")
        if path in self._paths:
            raise _EntryError("the path comes twice")
        self._paths.add(path)
        if is_directory:
            open_directories.append(path)

    def _check_hardlink(self, entry: cache_pb2.Entry, hardlink: int) -> None:
        if hardlink > len(self._linkable) or not self._linkable[hardlink - 1]:
            raise _EntryError("a hard link to what is no earlier regular file")
        if entry.pieces:
            raise _EntryError("a hard link with content")

    def _check_pieces(self, entry: cache_pb2.Entry) -> None:
        lengths = self._chunk_lengths
        chunks = len(lengths)
        size = entry.size
        if size > _MAX_FILE:
            raise _EntryError("the size is out of range")
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
