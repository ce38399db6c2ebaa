"""Deletes directories in the background, one after the other, at the lowest priority."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Trash:
    """A daemon thread that deletes what is thrown in.

    It may die in the middle with its process: what is left has no row in the index and is thrown
    in again at the next start.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[str | Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def throw(self, directory: str) -> None:
        """Deletes a directory tree some time from now. What cannot be deleted stays."""
        self._put(directory)

    async def emptied(self) -> None:
        """Returns when everything thrown in so far is gone."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def report() -> None:
            loop.call_soon_threadsafe(done.set)

        self._put(report)
        await done.wait()

    def _put(self, item: str | Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="trash", daemon=True)
            self._thread.start()
        self._queue.put(item)

    def _work(self) -> None:
        # On Linux a priority belongs to the thread.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        while True:
            item = self._queue.get()
            if isinstance(item, str):
                _delete(item)
            else:
                item()


def _delete(directory: str) -> None:
    try:
        shutil.rmtree(directory, ignore_errors=True)
    except RecursionError:
        # A RUN step may make a thousand directories in one another. Without a process to spare they
        # stay until the root goes; the thread must not end with them.
        with contextlib.suppress(OSError):
            subprocess.run(["rm", "-rf", "--", directory], check=False, stderr=subprocess.DEVNULL)
