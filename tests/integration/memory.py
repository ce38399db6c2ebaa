"""Directories that a throttled disk does not slow down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perf.host import scratch, scratch_base


@contextmanager
def in_memory(room: int) -> Iterator[Path]:
    """A directory that other users can enter, in memory if so many bytes fit there."""
    with scratch(scratch_base("bs", room=room), "bs") as directory:
        directory.chmod(0o755)
        yield directory
