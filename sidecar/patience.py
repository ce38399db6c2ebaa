"""How long the daemon's start may wait for the cache."""

from __future__ import annotations

import asyncio
import socket

#: Seconds from a client's connection after which a restore that is not done gives way to a
#: cold daemon; with the daemon's own start the client is answered within 5 s.
CLIENT_PATIENCE = 2.5
#: Seconds for the same while nobody waits.
IDLE_PATIENCE = 60.0


class Patience:
    """Knows when a client connects to the listener that nobody accepts from yet."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._client = asyncio.Event()

    async def wait(self, task: asyncio.Task[object]) -> bool:
        """Wait for the task as long as clients can; tell whether it is done.

        The listener is only watched, never accepted from: the client stays in the backlog.
        """
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener.fileno(), self._connected)
        limit = loop.create_task(self._limit())
        try:
            await asyncio.wait([task, limit], return_when=asyncio.FIRST_COMPLETED)
            return task.done()
        finally:
            loop.remove_reader(self._listener.fileno())
            limit.cancel()

    def _connected(self) -> None:
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._client.set()

    async def _limit(self) -> None:
        try:
            async with asyncio.timeout(IDLE_PATIENCE):
                await self._client.wait()
        except TimeoutError:
            return
        await asyncio.sleep(CLIENT_PATIENCE)
