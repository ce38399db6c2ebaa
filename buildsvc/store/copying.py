"""Copying between descriptors, in the kernel where it can; blocking, for threads."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading

BLOCK = 4 << 20
"""Bytes per step: what a copy may still do after it was asked to stop."""

_BUFFER = 1 << 20

# What copy_file_range(2) answers when these two files, or this kernel or seccomp profile, cannot
# do it, as opposed to a failure of the copy.
_NOT_HERE = frozenset(
    {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF, errno.EPERM}
)


def write_at(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write all of ``data`` at offset ``at``; raises ``OSError``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view = view[written:]
        at += written


def copy_range(
    source: int, start: int, length: int, *, target: int, at: int, stop: threading.Event
) -> int:
    """Copy up to ``length`` bytes; returns how many there were before the source ended.

    Neither descriptor's file offset is used, so concurrent copies to one target are fine. Ends
    early, with what it has, when ``stop`` is set. Raises ``OSError``.
    """
    done = 0
    in_kernel = True
    while done < length and not stop.is_set():
        if in_kernel:
            try:
                step = os.copy_file_range(
                    source, target, min(BLOCK, length - done), start + done, at + done
                )
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(_BUFFER, length - done), start + done)
            write_at(target, data, at + done)
            step = len(data)
        if step == 0:
            break
        done += step
    return done
