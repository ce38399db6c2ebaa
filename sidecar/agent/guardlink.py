"""The agent's end of its channel to the guard (see `guard.py` for the messages)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING

from sidecar.agent import packets
from sidecar.agent.packets import BATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.agent.packets import Message

_SEND_TIMEOUT = 5
"""Seconds that a send may wait for the guard to read; it always does, except while it ends."""


class GuardLink:
    """Keeps copies of descriptors in the guard, and ends buildkitd should the guard die.

    `gone` must run for as long as the agent does. The channel stays open until the process ends:
    the guard kills an agent that closes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_TIMEOUT, 0)
        )
        self._daemon: int | None = None  # its pidfd

    def hold(self, identifiers: Sequence[int], descriptors: Sequence[int]) -> None:
        """The guard keeps a copy of each descriptor under its identifier.

        Once this returns the copies are safe, read by the guard or not: a message under way keeps
        its descriptors alive. Raises OSError when the guard is gone or does not read.
        """
        for start in range(0, len(identifiers), BATCH):
            batch = slice(start, start + BATCH)
            message: Message = {"op": "hold", "ids": list(identifiers[batch])}
            packets.send(self._socket, message, list(descriptors[batch]))

    def drop(self, identifiers: Sequence[int]) -> None:
        """The guard closes these copies, some time soon. Raises OSError as `hold`."""
        for start in range(0, len(identifiers), BATCH):
            batch = slice(start, start + BATCH)
            packets.send(self._socket, {"op": "drop", "ids": list(identifiers[batch])}, [])

    async def gone(self) -> None:
        """Returns when the guard has died and buildkitd, killed by us, has too."""
        loop = asyncio.get_running_loop()
        while True:
            await _readable(loop, self._socket.fileno())
            try:
                received = packets.receive(self._socket, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            if received is None:
                break
            self._forget_daemon()
            (self._daemon,) = received[1]
        if self._daemon is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._daemon, signal.SIGKILL)
            # Our leases must stay until an opener that waits for one is dead.
            await _readable(loop, self._daemon)
        self._forget_daemon()

    def _forget_daemon(self) -> None:
        if self._daemon is not None:
            os.close(self._daemon)
            self._daemon = None


async def _readable(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
