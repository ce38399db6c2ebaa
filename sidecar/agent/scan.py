"""A directory, entry by entry, as seen inside the user namespace."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from sidecar.agent.dirfd import DIRECTORY
from sidecar.agent.errors import ChangedWhileReading

#: Levels of the walk whose directories are held open; those above are opened again by "..".
HELD_LEVELS = 64

#: Attribute families that belong to a layer. Others (security.selinux…) are the machine's.
_KEPT_PREFIX = "user."
_KEPT = frozenset({"security.capability", "system.posix_acl_access", "system.posix_acl_default"})

#: errno of a call on something that was there a moment ago.
VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO})

Xattrs = tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)
class Found:
    """One entry, valid until the walk goes on.

    `dir_fd` holds `name`; for directories it is the directory itself. `link` is the position of
    the entry that is the same regular file, or -1.
    """

    path: bytes
    name: bytes
    dir_fd: int
    directory: int
    status: os.stat_result
    link: int


@dataclass(slots=True)
class _Level:
    descriptor: int
    number: int
    path: bytes
    status: os.stat_result
    rest: list[bytes]


class Scan:
    """A walk in depth-first order: a directory, its other entries, then its directories, by name.

    Iterating yields every entry once, the root first with an empty path. Afterwards
    `usage_bytes` and `usage_inodes` are what containerd's `fs.DiskUsage` counts: allocated blocks
    of 512 bytes and inodes, each inode once. `parents` and `names` number the directories as
    `Directories` wants them. Raises ChangedWhileReading when a directory changes under the walk.
    """

    def __init__(self, root: int) -> None:
        """Walk the open directory `root`, which stays the caller's."""
        self._root = root
        self.usage_bytes = 0
        self.usage_inodes = 0
        self.parents: list[int] = []
        self.names: list[bytes] = []
        self._position = 0
        self._links: dict[tuple[int, int], int] = {}

    def __iter__(self) -> Generator[Found]:
        stack: list[_Level] = []
        try:
            descriptor = os.open(b".", DIRECTORY, dir_fd=self._root)
            stack.append(self._enter(descriptor, b"", b"", 0))
            yield from self._contents(stack[-1])
            while stack:
                level = stack[-1]
                if not level.rest:
                    self._leave(stack)
                    continue
                name = level.rest.pop()
                descriptor = _open_directory(level, name)
                path = level.path + b"/" + name if level.path else name
                stack.append(self._enter(descriptor, path, name, level.number))
                if len(stack) > HELD_LEVELS:
                    above = stack[-HELD_LEVELS - 1]
                    os.close(above.descriptor)
                    above.descriptor = -1
                yield from self._contents(stack[-1])
        finally:
            for level in stack:
                if level.descriptor >= 0:
                    os.close(level.descriptor)

    def _enter(self, descriptor: int, path: bytes, name: bytes, parent: int) -> _Level:
        status = os.fstat(descriptor)
        number = len(self.parents)
        self.parents.append(parent)
        self.names.append(name)
        return _Level(descriptor, number, path, status, [])

    def _contents(self, level: _Level) -> Iterator[Found]:
        """Yield the directory itself and what it holds but directories, which go to `rest`."""
        descriptor, number = level.descriptor, level.number
        self._count(level.status, first=True)
        self._position += 1
        yield Found(level.path, b".", descriptor, number, level.status, -1)
        prefix = level.path + b"/" if level.path else b""
        for name in sorted(map(os.fsencode, os.listdir(descriptor))):
            try:
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            except FileNotFoundError as error:
                raise changed(prefix + name) from error
            mode = status.st_mode
            if stat.S_ISDIR(mode):
                level.rest.append(name)
                continue
            link = -1
            if status.st_nlink > 1:
                link = self._linked(status)
            else:
                self._count(status, first=True)
            self._position += 1
            yield Found(prefix + name, name, descriptor, number, status, link)
        level.rest.reverse()

    def _linked(self, status: os.stat_result) -> int:
        """Return the first position of a regular file seen before; count what is new."""
        key = (status.st_dev, status.st_ino)
        first = self._links.setdefault(key, self._position)
        self._count(status, first=first == self._position)
        return first if first != self._position and stat.S_ISREG(status.st_mode) else -1

    def _count(self, status: os.stat_result, *, first: bool) -> None:
        if first:
            self.usage_inodes += 1
            self.usage_bytes += status.st_blocks * 512

    def _leave(self, stack: list[_Level]) -> None:
        level = stack.pop()
        try:
            if stack and stack[-1].descriptor < 0:
                above = os.open(b"..", DIRECTORY, dir_fd=level.descriptor)
                stack[-1].descriptor = above
                if not os.path.samestat(os.fstat(above), stack[-1].status):
                    raise changed(level.path)
            if not unchanged(os.fstat(level.descriptor), level.status):
                raise changed(level.path)
        finally:
            os.close(level.descriptor)


def _open_directory(level: _Level, name: bytes) -> int:
    try:
        return os.open(name, DIRECTORY, dir_fd=level.descriptor)
    except OSError as error:
        if error.errno in VANISHED:
            raise changed(level.path + b"/" + name) from error
        raise


def changed(path: bytes) -> ChangedWhileReading:
    """Return the error for an entry that is not what it was a moment ago."""
    return ChangedWhileReading(
        f"{os.fsdecode(path)!r} changed while it was read", advice="capture it when it is at rest"
    )


def unchanged(now: os.stat_result, before: os.stat_result) -> bool:
    """Whether nothing happened to an inode between two looks at it."""
    return (
        now.st_ctime_ns == before.st_ctime_ns
        and now.st_mtime_ns == before.st_mtime_ns
        and now.st_size == before.st_size
        and now.st_ino == before.st_ino
    )


def read_xattrs(target: int | bytes) -> Xattrs:
    """Return the extended attributes that belong to a layer, sorted by name.

    `target` is an open file or a path whose last component is not followed. Values are what this
    user namespace sees (capabilities and ACLs are translated by the kernel).
    """
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return ()
        raise
    if not names:
        return ()
    kept = sorted(name for name in names if name.startswith(_KEPT_PREFIX) or name in _KEPT)
    return tuple(
        (os.fsencode(name), os.getxattr(target, name, follow_symlinks=follow)) for name in kept
    )
