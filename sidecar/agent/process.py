"""The agent's side of one worker process."""

from __future__ import annotations

import asyncio
from typing import Self

from sidecar.agent import messages
from sidecar.agent.starting import Started


class WorkerDied(Exception):
    """The process ended instead of answering."""


class Process:
    """A running worker."""

    def __init__(
        self, process: Started, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Use `start` or `adopt`."""
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, kind: str, *arguments: str) -> Self:
        """Start a worker of a kind (`worker.main`), in the main thread. Raises OSError."""
        return await cls.adopt(Started(kind, *arguments))

    @classmethod
    async def adopt(cls, started: Started) -> Self:
        """Take over a worker that runs already."""
        return cls(started, *await asyncio.open_connection(sock=started.connection))

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Whether the end of the process has been noticed."""
        return self._reader.at_eof() or self._process.returncode is not None

    async def send(self, request: messages.Request) -> None:
        """Send a request. Raises WorkerDied."""
        self._writer.write(messages.encode(request))
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise WorkerDied from error

    async def receive(self) -> messages.Reply:
        """Wait for the next message. Raises WorkerDied."""
        try:
            header = await self._reader.readexactly(messages.HEADER.size)
            (length,) = messages.HEADER.unpack(header)
            return messages.decode_reply(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise WorkerDied from error

    async def call(self, request: messages.Request) -> messages.Reply:
        """Send a request that has one answer; return it, be it a failure. Raises WorkerDied."""
        await self.send(request)
        return await self.receive()

    def kill(self) -> None:
        """Send SIGKILL, whatever the process does."""
        self._process.kill()

    async def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self.kill()
        self._writer.close()
        await self._process.wait()
