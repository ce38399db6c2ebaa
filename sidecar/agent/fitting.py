"""What of a tree's bounds can be told before a file is read: most of what makes one too large."""

from __future__ import annotations

import stat

from buildsvc.cache import trees
from sidecar.agent.errors import NotCapturable
from sidecar.agent.scan import Found, Scan

#: Bytes that an entry takes at least, serialised, beside its path.
_ENTRY = 6


def expect_fitting(root: int, limits: trees.Limits) -> None:
    """Look at everything in the open directory `root`, at some 6 µs an entry.

    Raises NotCapturable if it is beyond the limits for certain, ChangedWhileReading, OSError.
    """
    size = 0
    for entries, found in enumerate(Scan(root), 1):
        expect_entry(found, limits)
        size += len(found.path) + _ENTRY
        expect_size(entries, size, limits)


def expect_entry(found: Found, limits: trees.Limits) -> None:
    """Raise NotCapturable for an entry that the format cannot hold."""
    if len(found.path) > limits.path:
        raise NotCapturable(f"a path of {len(found.path)} bytes")
    size = found.status.st_size
    if size > trees.MAX_FILE and stat.S_ISREG(found.status.st_mode):
        raise NotCapturable(f"a file of {size} bytes, more than {trees.MAX_FILE}")


def expect_size(entries: int, size: int, limits: trees.Limits) -> None:
    """Raise NotCapturable for more entries or serialised bytes than a reader takes."""
    if entries > limits.entries or size > limits.size:
        raise NotCapturable(f"a tree of more than {limits.entries} entries or {limits.size} bytes")
