"""Unpacking processes that start while the agent is still importing what it needs.

A fresh pod's daemon waits for both, one after the other otherwise. So this imports little.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

_WORKERS = "--workers="


def command(kind: str, descriptor: int, *arguments: str) -> list[str]:
    """Return the command line of a worker of a kind (`worker.main`)."""
    agent = str(os.getpid())
    return [sys.executable, "-m", "sidecar.agent.worker", kind, str(descriptor), agent, *arguments]


class Spare:
    """A child that no event loop knows, with our end of its socket."""

    def __init__(self, connection: socket.socket, child: subprocess.Popen[bytes]) -> None:
        """Use `start`."""
        self.connection = connection
        self._child = child

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """How it ended; None while it runs."""
        return self._child.poll()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._child.kill()

    async def wait(self) -> int:
        """Wait until it is gone."""
        return await asyncio.to_thread(self._child.wait)


def start(arguments: Sequence[str]) -> list[Spare]:
    """Start as many as the agent's arguments ask for; fewer where the machine has no room.

    Must not run in an event loop, and in the thread that lives as long as the agent.
    """
    wanted = [word.removeprefix(_WORKERS) for word in arguments if word.startswith(_WORKERS)]
    spares: list[Spare] = []
    with suppress(OSError, ValueError):
        spares.extend(_start() for _ in range(int(wanted[-1]) if wanted else 0))
    return spares


def _start() -> Spare:
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            child = subprocess.Popen(
                command("unpack", theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            raise
    return Spare(ours, child)
