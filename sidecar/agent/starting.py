"""Starts worker processes, also before the agent has an event loop. Imports little.

A fresh pod's daemon waits for the agent's imports and for the unpacking processes', one after the
other unless these start while the agent is still importing what it needs.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

_COMMAND = (sys.executable, "-m", "sidecar.agent.worker")
_WORKERS = "--workers="


class Started:
    """A running worker that no event loop knows, with our end of its socket."""

    def __init__(self, kind: str, *arguments: str) -> None:
        """Start a worker of a kind (`worker.main`). Raises OSError.

        To be called in the main thread: the worker dies with the thread that it is from. It
        blocks until the new process runs its program, as an event loop's own way does.
        """
        self.connection, theirs = socket.socketpair()
        with theirs:
            try:
                self._child = subprocess.Popen(
                    [*_COMMAND, kind, str(theirs.fileno()), str(os.getpid()), *arguments],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                )
            except BaseException:
                self.connection.close()
                raise

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._child.poll()

    def kill(self) -> None:
        """Send SIGKILL, whatever the process does."""
        self._child.kill()

    async def wait(self) -> int:
        """Wait until it is gone."""
        return await asyncio.to_thread(self._child.wait)


def spares(arguments: Sequence[str]) -> list[Started]:
    """Start as many that unpack as the agent's arguments ask for; fewer where there is no room."""
    wanted = [word.removeprefix(_WORKERS) for word in arguments if word.startswith(_WORKERS)]
    started: list[Started] = []
    with suppress(OSError, ValueError):
        started.extend(Started("unpack") for _ in range(int(wanted[-1]) if wanted else 0))
    return started
