"""Content of files in bounded memory: small ones whole, large ones as chunks, holes left out."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Self

from buildsvc.cache import chunking
from sidecar.agent.scan import VANISHED, Xattrs, changed, read_xattrs, unchanged

#: Bytes of a large file in memory at a time; several times the longest chunk.
WINDOW = 16 << 20

#: Never waits for a writer, should a fifo have taken the file's place.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Extent = tuple[int, int]
"""Offset and length of a range of a file that holds data."""


class FileReader:
    """One file that must stay as it is while it is read.

    A context manager; every read raises ChangedWhileReading when the file ends early, leaving it
    raises so when size, times or inode are not those of `status`.
    """

    def __init__(
        self, name: bytes, dir_fd: int | None, path: bytes, status: os.stat_result
    ) -> None:
        """Open `name` in `dir_fd`, or as a path of its own.

        `path` is for messages, `status` is what the file was found to be.
        """
        self.path = path
        self._status = status
        try:
            self.descriptor = os.open(name, _READ, dir_fd=dir_fd)
        except OSError as error:
            if error.errno in VANISHED:
                raise changed(path) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not unchanged(os.fstat(self.descriptor), self._status):
                raise changed(self.path)
        finally:
            os.close(self.descriptor)

    def xattrs(self) -> Xattrs:
        """Return the extended attributes that belong to a layer."""
        return read_xattrs(self.descriptor)

    def extents(self) -> list[Extent]:
        """Return the ranges that are no holes; asks the file system only where there are some."""
        size = self._status.st_size
        if self._status.st_blocks * 512 >= size:
            return [(0, size)] if size else []
        found: list[Extent] = []
        at = 0
        while at < size:
            try:
                start = os.lseek(self.descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            at = min(os.lseek(self.descriptor, start, os.SEEK_HOLE), size)
            if start < at:
                found.append((start, at - start))
        return found

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`."""
        data = os.pread(self.descriptor, length, offset)
        while len(data) < length:
            more = os.pread(self.descriptor, length - len(data), offset + len(data))
            if not more:
                raise changed(self.path)
            data += more
        return data

    def chunks(
        self, start: int, length: int, window: bytearray, grain: chunking.Grain
    ) -> Iterator[tuple[int, memoryview]]:
        """Cut a range by its content: (offset in the file, bytes), in order and without gaps.

        The bytes lie in `window` (at least twice as long as the longest chunk) and are gone when
        the iteration goes on. The cuts are those that `chunking.split` makes of the whole range.
        """
        end = start + length
        held = 0
        with memoryview(window) as view:
            while start < end:
                held += self._fill(view[held : min(len(view), end - start)], start + held)
                used = 0
                for offset, size in chunking.split(view[:held], grain):
                    if offset + size == held and start + held < end:
                        # This cut may come from the window's end, not from the content.
                        break
                    yield start + offset, view[offset : offset + size]
                    used = offset + size
                view[: held - used] = view[used:held]
                start += used
                held -= used

    def _fill(self, view: memoryview, offset: int) -> int:
        done = 0
        while done < len(view):
            count = os.preadv(self.descriptor, [view[done:]], offset + done)
            if count == 0:
                raise changed(self.path)
            done += count
        return done
