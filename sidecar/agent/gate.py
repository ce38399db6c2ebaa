"""Holds calls back while the state of one instant is taken."""

from __future__ import annotations

import asyncio


class Gate:
    """Open at first. Calls enter and leave; `close` waits for those inside and keeps others out."""

    def __init__(self) -> None:
        self._inside = 0
        self._opened = asyncio.Event()
        self._opened.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def closed(self) -> bool:
        """Whether calls are held back."""
        return not self._opened.is_set()

    async def enter(self) -> None:
        """Waits while the gate is closed. Who has entered must leave."""
        while self.closed:
            await self._opened.wait()
        self._inside += 1
        self._empty.clear()

    def leave(self) -> None:
        """Ends one `enter`."""
        self._inside -= 1
        if not self._inside:
            self._empty.set()

    async def close(self) -> None:
        """Returns when nobody is inside. Cancelled while it waits, it leaves the gate open."""
        self._opened.clear()
        try:
            await self._empty.wait()
        except asyncio.CancelledError:
            self._opened.set()
            raise

    def open(self) -> None:
        """Lets calls in again; open already is fine."""
        self._opened.set()
