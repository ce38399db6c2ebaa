"""Room on the disk of the root: what must stay free for builds, and when nothing is left."""

from __future__ import annotations

import os
from pathlib import Path

from buildsvc.errors import CannotCreate

#: Bytes without which not even an empty daemon starts.
_LEAST = 16 << 20
#: Bytes below which the disk is full to whoever writes a file.
_NOTHING = 1 << 20
#: Part of what is free at the start that a restore leaves to builds. It is the part that
#: ``--max-used-space`` leaves, unless that is set.
_RESERVED = 5
#: Of ENOSPC, in the words of every program that asks the C library or Go for it.
_WORDS = "no space left on device"


class Room:
    """The disk of one directory. Its calls take microseconds: they ask the kernel alone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._reserved = max(_LEAST, self.free // _RESERVED)

    @property
    def free(self) -> int:
        """Bytes that this user can still write."""
        disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize

    def has(self, size: int) -> bool:
        """Whether so many bytes that nobody has asked for yet may come."""
        return self.free - size >= self._reserved

    def failed_for_want_of_it(self, error: str) -> bool:
        """Whether a build that ended now with this error lacked room.

        What failed may be deleted already; or it was the client's disk that is full.
        """
        return self.free < _NOTHING or (_WORDS in error.lower() and not self.has(0))

    def expect(self) -> None:
        """Raise CannotCreate if not even an empty daemon would start."""
        if self.free < _LEAST:
            raise CannotCreate(
                f"there is no room for a daemon in {self._directory}",
                expected=f"{_LEAST >> 20} MiB free at least",
                found=f"{self.free >> 10} KiB",
                advice="make room, or choose a directory on another disk with --root",
            )
