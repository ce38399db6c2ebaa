"""How long the daemon's start may wait for the cache."""

from __future__ import annotations

import asyncio
import socket

#: Seconds from a client's connection after which a restore that is not done gives way to a
#: cold daemon; with the daemon's own start the client is answered within 5 s.
CLIENT_PATIENCE = 2.5
#: Seconds for the same while nobody waits.
IDLE_PATIENCE = 60.0


async def client_waits(listener: socket.socket) -> None:
    """Return when somebody has connected to a listener that nobody accepts from yet.

    It is only watched: the client stays in the backlog.
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[None] = loop.create_future()

    def connected() -> None:
        loop.remove_reader(listener.fileno())
        if not waiting.done():
            waiting.set_result(None)

    loop.add_reader(listener.fileno(), connected)
    try:
        await waiting
    finally:
        loop.remove_reader(listener.fileno())


class Patience:
    """Knows how long what clients wait for may take, all of it together."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        #: When the first client to wait has waited long enough, by the loop's clock.
        self._end: float | None = None

    async def wait(self, task: asyncio.Task[object]) -> bool:
        """Wait for the task as long as clients can; tell whether it is done."""
        limit = asyncio.create_task(self._limit(), name="patience")
        try:
            await asyncio.wait([task, limit], return_when=asyncio.FIRST_COMPLETED)
            return task.done()
        finally:
            limit.cancel()
            await asyncio.wait([limit])

    async def _limit(self) -> None:
        loop = asyncio.get_running_loop()
        if self._end is None:
            try:
                async with asyncio.timeout(IDLE_PATIENCE):
                    await client_waits(self._listener)
            except TimeoutError:
                return
            self._end = loop.time() + CLIENT_PATIENCE
        await asyncio.sleep(self._end - loop.time())
