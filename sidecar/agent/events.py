"""What happens in the agent, for one listener: the sidecar."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from buildsvc._proto.buildsvc.agent.v1 import agent_pb2


class Events:
    """Passes events on to whoever listens; those that happen while nobody does are dropped."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[agent_pb2.Event]] = set()

    def publish(self, event: agent_pb2.Event) -> None:
        """Never waits."""
        for listener in self._listeners:
            listener.put_nowait(event)

    @contextmanager
    def listening(
        self, first: Iterable[agent_pb2.Event] = ()
    ) -> Iterator[asyncio.Queue[agent_pb2.Event]]:
        """A queue with the events `first` and all that happen from now on."""
        queue: asyncio.Queue[agent_pb2.Event] = asyncio.Queue()
        for event in first:
            queue.put_nowait(event)
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)
