"""Directories that a throttled disk does not slow down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perf.host import scratch, scratch_base


@contextmanager
def in_memory(room: int, chosen: Path | None = None) -> Iterator[Path]:
    """A directory that other users can enter: in the chosen one, or in memory if it has room."""
    with scratch(scratch_base("bs", chosen, room), "bs") as directory:
        directory.chmod(0o755)
        yield directory
