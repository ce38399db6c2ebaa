"""The guard's children: agent, buildkitd, and what descends from them. Standard library only.

What loses its parent becomes the guard's child, so all of it can be found and killed.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

from sidecar.agent import spawn

AGENT_GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL for the agent."""


class Signals:
    """Signals as something that a loop can wait for."""

    def __init__(self) -> None:
        self._wake, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        """Readable when a signal has come that `drain` has not seen."""
        return self._wake

    def handle(self, asked_to_end: Callable[..., None]) -> None:
        """Calls it for signals that ask to end; SIGCHLD wakes only."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, asked_to_end)

    def wait(self, seconds: float) -> None:
        """Waits for a signal, and for nothing else."""
        select.select([self], [], [], seconds)
        self.drain()

    def drain(self) -> None:
        """What has come has been seen."""
        try:
            while os.read(self._wake, 512):
                continue
        except BlockingIOError:
            return


class Children:
    """Both children by pid, None while there is none, and how each ended."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self.agent: int | None = None
        self.daemon: int | None = None
        self._statuses: dict[int, int] = {}

    @property
    def agent_ended(self) -> bool:
        """Whether it was there, and `reap` has seen its end."""
        return self.agent in self._statuses

    @property
    def daemon_ended(self) -> bool:
        """Whether it was there, and `reap` has seen its end."""
        return self.daemon in self._statuses

    def reap(self) -> None:
        """Takes note of every child that has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in (self.agent, self.daemon):
                self._statuses[pid] = os.waitstatus_to_exitcode(status)

    def kill_strays(self, *spare: int | None) -> int:
        """Kills every child but those to spare, until there is none; answers how many."""
        killed: set[int] = set()
        while True:
            self.reap()
            strays = [pid for pid in spawn.children(os.getpid()) if pid not in spare]
            if not strays:
                return len(killed)
            for pid in strays:
                os.kill(pid, signal.SIGKILL)
            killed.update(strays)
            self._signals.wait(1.0)

    def end_daemon(self) -> int | None:
        """Kills buildkitd and all that descends from it; returns when the last one is reaped.

        Answers the daemon's status, None if none ran.
        """
        self.kill_strays(self.agent)
        if self.daemon is None:
            return None
        daemon, self.daemon = self.daemon, None
        return self._statuses.pop(daemon)

    def end_agent(self) -> int | None:
        """SIGTERM, then SIGKILL, then its orphans, once the daemon is gone; answers its status."""
        if self.agent is None:
            return None
        if not self.agent_ended:
            os.kill(self.agent, signal.SIGTERM)
        limit = time.monotonic() + AGENT_GRACE
        while not self.agent_ended:
            left = limit - time.monotonic()
            if left <= 0:
                os.kill(self.agent, signal.SIGKILL)
            self._signals.wait(max(left, 0.1))
            self.reap()
        self.kill_strays(self.agent)
        return self._statuses[self.agent]
