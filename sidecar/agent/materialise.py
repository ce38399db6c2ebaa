"""A tree and the chunks it names become a directory.

Three steps on one target: `prepare` once, `fill` for each segment, several at a time in different
processes, then `finish` once. Each may be repeated after its process died at any point. The target
is nobody else's until `finish` returns. Every file is opened relative to a directory descriptor
with O_NOFOLLOW, so nothing outside the target is touched, whatever the tree says.

Files may be hard links of a sibling's: `prepare` makes these and says which, the other steps leave
them alone. Nothing can be written through such a link: content goes into files that the same call
made with O_EXCL, or that `prepare` made and that are seen to have no other name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from sidecar.agent.dirfd import DIRECTORY, Directories
from sidecar.agent.layout import Layout, last_name
from sidecar.agent.staged import StagedChunk, read_chunks
from sidecar.agent.twins import Twins

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PRIVATE = 0o600
_PRIVATE_DIRECTORY = 0o700
#: Bits that a write or a change of owner takes away again.
_FRAGILE = stat.S_ISUID | stat.S_ISGID
_DEFAULT_ACL = "system.posix_acl_default"


@dataclass(frozen=True)
class Filled:
    """Files completed, bytes written, and indices of chunks whose bytes were wrong."""

    files: int
    bytes: int
    corrupt: list[int]


class Materialiser:
    """One tree on its way to one directory. Changes the process's umask while it works."""

    def __init__(self, layout: Layout, target: bytes, linked: bytes = b"") -> None:
        """Work on the existing directory `target`; `linked` is what `prepare` has returned."""
        self._layout = layout
        self._target = target
        self._linked = linked or bytes(len(layout.entries))
        self._owner = (os.geteuid(), os.getegid())

    def prepare(self, twins: Twins | None = None) -> bytes:
        """Make directories and everything that needs no chunk; large files get their size only.

        Returns a byte for each entry, 1 if it is a link of its twin; no byte if none is.
        """
        layout = self._layout
        linked = bytearray(len(layout.entries))
        with self._directories() as directories:
            _forget_metadata(directories.get(0))
            numbers = layout.directories
            for index, entry in enumerate(layout.entries):
                mode = entry.mode
                if stat.S_ISREG(mode):
                    if twins is not None and twins.link(
                        index, last_name(entry), directories.get(numbers[index])
                    ):
                        linked[index] = 1
                    elif not entry.hardlink and len(entry.pieces) != 1:
                        self._prepare_file(entry, last_name(entry), directories.get(numbers[index]))
                elif not stat.S_ISDIR(mode):
                    self._special(entry, last_name(entry), directories.get(numbers[index]))
                elif index:
                    number = numbers[index]
                    parent = directories.get(layout.parents[number])
                    try:
                        os.mkdir(layout.names[number], _PRIVATE_DIRECTORY, dir_fd=parent)
                    except FileExistsError:
                        _forget_metadata(directories.get(number))
        return bytes(linked) if any(linked) else b""

    def fill(self, segment: bytes, staged: Iterable[StagedChunk]) -> Filled:
        """Verify the chunks in the file `segment` and write every piece that needs one.

        Raises CorruptObject for a chunk that the tree does not have, OSError.
        """
        layout = self._layout
        files = written = 0
        corrupt: list[int] = []
        with self._directories() as directories:
            for index, data in read_chunks(segment, staged, layout.digests, layout.lengths):
                if data is None:
                    corrupt.append(index)
                    continue
                with memoryview(data) as view:
                    for each in layout.single[index]:
                        if not self._linked[each]:
                            written += self._write_whole(each, view, directories)
                            files += 1
                    for each, which in layout.scattered(index):
                        if not self._linked[each]:
                            written += self._write_piece(each, which, view, directories)
        return Filled(files, written, corrupt)

    def finish(self) -> None:
        """Set the metadata of large files, make hard links, then set that of the directories."""
        layout = self._layout
        entries = layout.entries
        numbers = layout.directories
        with self._directories() as directories, self._directories() as sources:
            for index, entry in enumerate(entries):
                if not stat.S_ISREG(entry.mode) or self._linked[index]:
                    continue
                if len(entry.pieces) > 1:
                    directory = directories.get(numbers[index])
                    descriptor = os.open(last_name(entry), _OPEN, dir_fd=directory)
                    with _closing(descriptor):
                        self._describe(descriptor, entry, _PRIVATE)
                elif entry.hardlink:
                    first = entry.hardlink - 1
                    self._link(
                        last_name(entries[first]),
                        sources.get(numbers[first]),
                        last_name(entry),
                        directories.get(numbers[index]),
                    )
            for number in reversed(range(len(layout.names))):
                entry = entries[layout.directory_entries[number]]
                self._describe(directories.get(number), entry, _PRIVATE_DIRECTORY)

    @contextmanager
    def _directories(self) -> Iterator[Directories]:
        layout = self._layout
        directories = Directories(os.open(self._target, DIRECTORY), layout.parents, layout.names)
        umask = os.umask(0)
        try:
            yield directories
        finally:
            os.umask(umask)
            directories.close()

    def _prepare_file(self, entry: cache_pb2.Entry, name: bytes, dir_fd: int) -> None:
        scattered = bool(entry.pieces)
        mode = _PRIVATE if scattered else stat.S_IMODE(entry.mode) & ~_FRAGILE
        with _closing(_create(name, mode, dir_fd)) as descriptor:
            if entry.size:
                os.ftruncate(descriptor, entry.size)
            if not scattered:
                self._describe(descriptor, entry, mode)

    def _write_whole(self, index: int, data: memoryview, directories: Directories) -> int:
        """Create a file that is one piece, with everything."""
        layout = self._layout
        entry = layout.entries[index]
        piece = entry.pieces[0]
        length = piece.length
        offset = piece.chunk_offset
        mode = stat.S_IMODE(entry.mode) & ~_FRAGILE
        dir_fd = directories.get(layout.directories[index])
        descriptor = _create(last_name(entry), mode, dir_fd)
        try:
            _write(descriptor, data[offset : offset + length], piece.file_offset)
            if entry.size != piece.file_offset + length:
                os.ftruncate(descriptor, entry.size)
            self._describe(descriptor, entry, mode)
        finally:
            os.close(descriptor)
        return length

    def _write_piece(
        self, index: int, which: int, data: memoryview, directories: Directories
    ) -> int:
        """Write a piece of a file that `prepare` made."""
        layout = self._layout
        entry = layout.entries[index]
        piece = entry.pieces[which]
        offset = piece.chunk_offset
        dir_fd = directories.get(layout.directories[index])
        name = last_name(entry)
        with _closing(os.open(name, _OPEN, dir_fd=dir_fd)) as descriptor:
            if os.fstat(descriptor).st_nlink != 1:
                raise OSError(errno.EMLINK, "has another name and must not be written to", name)
            _write(descriptor, data[offset : offset + piece.length], piece.file_offset)
        return piece.length

    def _describe(self, descriptor: int, entry: cache_pb2.Entry, created: int) -> None:
        """Set owner, mode, xattrs and times, in the order in which none undoes another."""
        owner = (entry.uid, entry.gid)
        if owner != self._owner:
            os.fchown(descriptor, *owner)
        mode = stat.S_IMODE(entry.mode)
        if mode != created:
            os.fchmod(descriptor, mode)
        for xattr in entry.xattrs:
            os.setxattr(descriptor, xattr.name, xattr.value)
        mtime = entry.mtime_ns
        os.utime(descriptor, ns=(mtime, mtime))

    def _special(self, entry: cache_pb2.Entry, name: bytes, dir_fd: int) -> None:
        """Make a symbolic link, device, fifo or socket, with everything."""
        mode = entry.mode
        owner = (entry.uid, entry.gid)
        if stat.S_ISLNK(mode):
            _replacing(lambda: os.symlink(entry.symlink, name, dir_fd=dir_fd), name, dir_fd)
        else:
            _replacing(lambda: os.mknod(name, mode, entry.rdev, dir_fd=dir_fd), name, dir_fd)
        if owner != self._owner:
            os.chown(name, *owner, dir_fd=dir_fd, follow_symlinks=False)
        if not stat.S_ISLNK(mode) and mode & _FRAGILE:
            os.chmod(name, stat.S_IMODE(mode), dir_fd=dir_fd)
        for xattr in entry.xattrs:
            path = b"/proc/self/fd/%d/%s" % (dir_fd, name)
            os.setxattr(path, xattr.name, xattr.value, follow_symlinks=False)
        mtime = entry.mtime_ns
        os.utime(name, ns=(mtime, mtime), dir_fd=dir_fd, follow_symlinks=False)

    def _link(self, source: bytes, source_fd: int, name: bytes, dir_fd: int) -> None:
        _replacing(
            lambda: os.link(
                source, name, src_dir_fd=source_fd, dst_dir_fd=dir_fd, follow_symlinks=False
            ),
            name,
            dir_fd,
        )


def _create(name: bytes, mode: int, dir_fd: int) -> int:
    """Open a new file for writing; one that a worker left when it died is removed."""
    try:
        return os.open(name, _NEW, mode, dir_fd=dir_fd)
    except FileExistsError:
        os.unlink(name, dir_fd=dir_fd)
        return os.open(name, _NEW, mode, dir_fd=dir_fd)


def _replacing(create: Callable[[], None], name: bytes, dir_fd: int) -> None:
    try:
        create()
    except FileExistsError:
        os.unlink(name, dir_fd=dir_fd)
        create()


def _forget_metadata(descriptor: int) -> None:
    """Take from a directory what an earlier `finish` gave it and new entries would inherit."""
    os.fchmod(descriptor, _PRIVATE_DIRECTORY)
    if _DEFAULT_ACL in os.listxattr(descriptor):
        os.removexattr(descriptor, _DEFAULT_ACL)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`."""
    while data:
        count = os.pwrite(descriptor, data, offset)
        data = data[count:]
        offset += count


@contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)
