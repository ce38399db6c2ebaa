"""Directories opened one component at a time, so that no symbolic link is ever followed."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence

#: Directory descriptors held at most by one cache.
CACHED = 64

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Directories:
    """Descriptors of the directories below one root, opened on demand, least used closed first.

    Directories are numbered by the caller; number 0 is the root. `parents[n]` is the number of
    the directory that holds directory n (smaller than n) and `names[n]` its name there. Paths of
    any length work, as no system call ever sees more than one component. Both sequences may grow
    while the cache is in use.
    """

    def __init__(self, root: int, parents: Sequence[int], names: Sequence[bytes]) -> None:
        """Take over `root`, an open directory; `close` closes it."""
        self._root = root
        self._parents = parents
        self._names = names
        self._open: OrderedDict[int, int] = OrderedDict()

    def get(self, number: int) -> int:
        """Return a descriptor that stays open at least until the next call.

        Raises OSError (ENOTDIR or ELOOP for a component that is not a directory).
        """
        if number == 0:
            return self._root
        found = self._open.get(number)
        if found is not None:
            self._open.move_to_end(number)
            return found
        missing = []
        while number and number not in self._open:
            missing.append(number)
            number = self._parents[number]
        descriptor = self._open[number] if number else self._root
        for step in reversed(missing):
            descriptor = os.open(self._names[step], DIRECTORY, dir_fd=descriptor)
            self._open[step] = descriptor
            if len(self._open) > CACHED:
                os.close(self._open.popitem(last=False)[1])
        return descriptor

    def close(self) -> None:
        """Close every descriptor."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()
        os.close(self._root)
