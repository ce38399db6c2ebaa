"""Stopping buildkitd for an instant, every thread of it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

#: Seconds between two looks at the threads; a stop takes microseconds once they run.
_LOOK_EVERY = 0.001
#: Seconds after which a daemon that does not stop (a thread in uninterruptible sleep) is let go.
_STOP_WITHIN = 2.0


class NotStopped(Exception):
    """A thread did not stop in time; the daemon goes on."""


@asynccontextmanager
async def paused(pid: int) -> AsyncIterator[None]:
    """Hold the process still inside the block.

    Clients wait in the listener's backlog and on their connections meanwhile; the daemon
    goes on whatever happens in the block.

    Raises:
        NotStopped: not every thread reached state T.
        ProcessLookupError: there is no such process.
    """
    os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(_STOP_WITHIN):
            # Only a parent is told of a stop; this process is none.
            while not await asyncio.to_thread(_all_stopped, pid):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_EVERY)
        yield
    except TimeoutError:
        raise NotStopped(f"process {pid} did not stop within {_STOP_WITHIN:g} s") from None
    finally:
        os.kill(pid, signal.SIGCONT)


def _all_stopped(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            stat = (task / "stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The state follows the command's name, which is in parentheses and may hold any byte.
        if stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3] not in (b"T", b"Z", b"X"):
            return False
    return True
