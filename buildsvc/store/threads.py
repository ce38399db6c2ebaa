"""Bounded threads for a store's blocking file work."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """At most ``limit`` threads; more calls wait in a queue.

    A cancelled call that already runs is left to end by itself: a thread cannot be stopped, and
    a dead file server must not hold up the caller's time-out.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=limit, thread_name_prefix=name)

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what ``call`` returns, run in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, functools.partial(call, *args, **kwargs))

    async def borrow(self, fd: int, call: Callable[[int, threading.Event], T]) -> T:
        """Run ``call`` with a duplicate of ``fd`` and an event that asks it to stop.

        The duplicate belongs to the thread. Without it, a caller who is cancelled and closes
        ``fd`` could see the thread write into whatever file gets that number next.
        """
        duplicate = os.dup(fd)
        stop = threading.Event()
        try:
            future = self._executor.submit(call, duplicate, stop)
        except RuntimeError:
            os.close(duplicate)
            raise

        def release(_: Future[T]) -> None:
            os.close(duplicate)

        future.add_done_callback(release)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.set()
            raise

    def close(self) -> None:
        """Let the threads end after the calls they have; does not wait."""
        self._executor.shutdown(wait=False)
