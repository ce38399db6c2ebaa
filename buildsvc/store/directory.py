"""Objects as files below one directory; blocking, the threads are ``LocalStore``'s.

Besides objects the root holds a marker file and ``.drafts``, where files lie until they are
whole.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice
from typing import TYPE_CHECKING

from buildsvc.errors import ObjectExists, ObjectNotFound
from buildsvc.store.contract import ObjectStat
from buildsvc.store.copying import copy_range
from buildsvc.store.drafts import Draft, make_directories, remove_stale
from buildsvc.store.marker import is_store, make_store
from buildsvc.store.oserrors import CALLERS_TARGET, reading_error, writing_error
from buildsvc.store.ranges import short_object, too_large
from buildsvc.store.walk import walk

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

_DRAFTS = ".drafts"


class ObjectDirectory:
    """The blocking half of ``LocalStore``; methods raise as the contract says.

    Safe to use from several threads: its two flags only ever go from False to True, and what
    they save is idempotent.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._recognised = False
        self._writable = False

    def read(self, name: str, limit: int) -> bytes:
        """The whole object, of at most ``limit`` bytes."""
        fd, size = self._open(name)
        try:
            if size > limit:
                raise too_large(name, limit, size)
            return self._read_exactly(fd, name, 0, size)
        finally:
            os.close(fd)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Exactly ``length`` bytes."""
        fd, size = self._open(name)
        try:
            # Before anything is allocated: lengths come from other people's indexes.
            if start + length > size:
                raise short_object(name, start, length, size)
            return self._read_exactly(fd, name, start, length)
        finally:
            os.close(fd)

    def copy_out(
        self, name: str, start: int, length: int, *, target: int, at: int, stop: threading.Event
    ) -> int:
        """Copy into the descriptor ``target``; what goes wrong there is an ``OSError``."""
        fd, size = self._open(name)
        try:
            if start + length > size:
                raise short_object(name, start, length, size)
            done = copy_range(fd, start, length, target=target, at=at, stop=stop)
        except OSError as error:
            if error.errno in CALLERS_TARGET:
                raise
            raise reading_error(error, name, self._root) from error
        finally:
            os.close(fd)
        if done < length and not stop.is_set():
            raise short_object(name, start, length, start + done)
        return done

    def write(self, name: str, fill: Callable[[Draft], None], *, exclusive: bool) -> None:
        """Store what ``fill`` puts into a draft."""
        draft = self.begin(name)
        try:
            fill(draft)
            self.publish(name, draft, exclusive=exclusive)
        except OSError as error:
            raise writing_error(error, name, self._root) from error
        finally:
            draft.discard()

    def write_file(self, name: str, path: Path) -> None:
        """Store a file's bytes; ``OSError`` if it cannot be opened."""
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(source).st_size
            self.write(name, lambda draft: draft.copy_from(source, size), exclusive=False)
        finally:
            os.close(source)

    def begin(self, name: str) -> Draft:
        """An empty draft of an object; the caller discards it in the end, published or not."""
        try:
            drafts = self._root / _DRAFTS
            if not self._writable:
                make_store(self._root)
                make_directories(drafts)
                remove_stale(drafts)
                self._writable = True
            return Draft(drafts)
        except OSError as error:
            raise writing_error(error, name, self._root) from error

    def append(self, name: str, draft: Draft, data: bytes) -> None:
        """Append ``data`` to the draft of ``name``."""
        try:
            draft.write(data)
        except OSError as error:
            raise writing_error(error, name, self._root) from error

    def publish(self, name: str, draft: Draft, *, exclusive: bool) -> None:
        """Give the draft its name."""
        target = self._root / name
        try:
            make_directories(target.parent)
            if exclusive:
                draft.link(target)
            else:
                draft.replace(target)
        except FileExistsError as error:
            if target.is_dir():
                taken = IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
                raise writing_error(taken, name, self._root) from error
            raise ObjectExists(f"there is an object {name} already") from error
        except OSError as error:
            raise writing_error(error, name, self._root) from error

    def stat(self, name: str) -> ObjectStat:
        """Size and time."""
        try:
            self._recognise()
            found = os.stat(self._root / name)
        except OSError as error:
            raise reading_error(error, name, self._root) from error
        if not stat.S_ISREG(found.st_mode):
            raise ObjectNotFound(f"no object {name}")
        return ObjectStat(name, found.st_size, found.st_mtime)

    def entries(self, prefix: str) -> Iterator[ObjectStat]:
        """The iterator to be read with ``page``."""
        try:
            self._recognise()
        except OSError as error:
            raise reading_error(error, f"{prefix}*", self._root) from error
        return walk(self._root, prefix)

    def page(self, entries: Iterator[ObjectStat], count: int) -> tuple[ObjectStat, ...]:
        """The next ``count`` entries, fewer at the end."""
        try:
            return tuple(islice(entries, count))
        except OSError as error:
            raise reading_error(error, "the list of objects", self._root) from error

    def remove(self, name: str) -> None:
        """Remove the object if it is there."""
        try:
            self._recognise()
            os.unlink(self._root / name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise writing_error(error, name, self._root) from error

    def _recognise(self) -> None:
        if not self._recognised:
            self._recognised = is_store(self._root)

    def _open(self, name: str) -> tuple[int, int]:
        try:
            self._recognise()
            fd = os.open(self._root / name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise reading_error(error, name, self._root) from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            raise ObjectNotFound(f"no object {name}")
        return fd, found.st_size

    def _read_exactly(self, fd: int, name: str, start: int, length: int) -> bytes:
        parts = []
        done = 0
        try:
            while done < length and (part := os.pread(fd, length - done, start + done)):
                parts.append(part)
                done += len(part)
        except OSError as error:
            raise reading_error(error, name, self._root) from error
        if done < length:
            raise short_object(name, start, length, start + done)
        return b"".join(parts)
