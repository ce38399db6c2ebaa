"""Files that appear whole or not at all; blocking, for threads.

A draft is written under a private name, synced, and then given its real name in one step:
``rename(2)`` replaces what was there, ``link(2)`` fails if anything was. Link, not an open with
``O_EXCL``, because the latter shows the name before the bytes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from typing import TYPE_CHECKING

from buildsvc.store.copying import copy_range, write_at

if TYPE_CHECKING:
    from pathlib import Path

STALE_AFTER = 24 * 3600.0
"""Age in seconds at which a draft is taken for one whose writer died."""


class Draft:
    """One file being written. ``discard`` it in the end, whether it was published or not."""

    def __init__(self, directory: Path, prefix: str = "") -> None:
        """Create it empty in ``directory``; raises ``OSError``."""
        self._path = directory / f"{prefix}{secrets.token_hex(16)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(self._path, flags, 0o666)
        self._size = 0

    def discard(self) -> None:
        """Remove the private name and close the file."""
        os.close(self._fd)
        # After replace() the name is gone already; after link() it is a second one.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        write_at(self._fd, data, self._size)
        self._size += len(data)

    def copy_from(self, source: int, length: int) -> None:
        """Append up to ``length`` bytes of the descriptor ``source``, from its beginning."""
        self._size += copy_range(
            source, 0, length, target=self._fd, at=self._size, stop=threading.Event()
        )

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._size

    def replace(self, target: Path) -> None:
        """Publish as ``target``, durably, in place of what is there."""
        os.fsync(self._fd)
        os.rename(self._path, target)
        sync_directory(target.parent)

    def link(self, target: Path) -> None:
        """Publish as ``target``, durably; raises ``FileExistsError`` if something is there."""
        os.fsync(self._fd)
        os.link(self._path, target)
        sync_directory(target.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: Path) -> None:
    """Create ``path`` and its missing parents, each one durable in the directory above it."""
    try:
        path.mkdir()
    except FileExistsError:
        return
    except FileNotFoundError:
        make_directories(path.parent)
        make_directories(path)
        return
    sync_directory(path.parent)


def remove_stale(directory: Path) -> None:
    """Remove the drafts of writers that died, by their age."""
    before = time.time() - STALE_AFTER
    with os.scandir(directory) as entries:
        for entry in entries:
            # Another process may sweep at the same time.
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < before:
                    os.unlink(entry.path)
