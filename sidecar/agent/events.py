"""What happens in the agent, for one listener: the sidecar."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from buildsvc._proto.buildsvc.agent.v1 import agent_pb2


class Events:
    """Passes events on to whoever listens; those that happen while nobody does are dropped."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[agent_pb2.Event]] = set()

    def publish(self, event: agent_pb2.Event) -> None:
        """Never waits."""
        for listener in self._listeners:
            listener.put_nowait(event)

    async def listen(self) -> AsyncIterator[agent_pb2.Event]:
        """Events from the first step of the iteration on, without end."""
        queue: asyncio.Queue[agent_pb2.Event] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)
