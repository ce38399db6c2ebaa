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


def children(pid: int) -> list[int]:
    """Return the processes that it has started and that have not ended. Blocks."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = _state_and_parent(entry / "stat")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == pid and state not in (b"Z", b"X"):
                found.append(int(entry.name))
    return found


def _state_and_parent(path: Path) -> tuple[bytes, int]:
    # They follow the command's name, which is in parentheses and may hold any byte.
    state, parent = path.read_bytes().rpartition(b")")[2].split(None, 2)[:2]
    return state, int(parent)


def _all_stopped(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            state, _ = _state_and_parent(task / "stat")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in (b"T", b"Z", b"X"):
            return False
    return True
