"""The snapshot index on disk: one file, replaced whole."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from buildsvc.errors import EnvironmentUnfit
from sidecar.agent.index import SnapshotIndex

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

NAME = "index"


def load(root: Path) -> SnapshotIndex:
    """The index of a root, empty for a new one. Blocks.

    Raises EnvironmentUnfit for a file that is no index.
    """
    path = root / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return SnapshotIndex()
    try:
        return SnapshotIndex.decode(data)
    except ValueError as error:
        raise EnvironmentUnfit(f"{path} is not an index of this version: {error}") from error


class IndexFile:
    """Writes the index when it has changed.

    Calls that come while a write is under way share the next one. Nothing is synced to the disk:
    the file has to survive the process, not the machine, which throws the root away.
    """

    def __init__(self, root: Path, index: SnapshotIndex, executor: Executor) -> None:
        self._path = str(root / NAME)
        self._index = index
        self._executor = executor
        self._written = -1
        self._writing: asyncio.Task[None] | None = None

    async def flush(self) -> None:
        """Returns when every change made so far is in the file. Raises OSError."""
        wanted = self._index.version
        while self._written < wanted:
            if self._writing is None:
                self._writing = asyncio.create_task(self._write(), name="write snapshot index")
            # A caller that is cancelled must not cancel the write of the others.
            await asyncio.shield(self._writing)

    async def _write(self) -> None:
        try:
            version, data = self._index.version, self._index.encode()
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, _replace(self._path, data))
            self._written = version
        finally:
            self._writing = None


def _replace(path: str, data: bytes) -> Callable[[], None]:
    def write() -> None:
        temporary = path + ".new"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(data)
            os.rename(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    return write
