"""The agent's side of one worker process."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol, Self

from sidecar.agent import messages
from sidecar.agent.spares import Spare, command


class WorkerDied(Exception):
    """The process ended instead of answering."""


class Child(Protocol):
    """What a started process offers; asyncio's and `Spare` do."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def kill(self) -> None: ...

    async def wait(self) -> int: ...


class Process:
    """A running worker. To be started in the main thread: it dies with the thread it is from."""

    def __init__(
        self,
        process: Child,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Use `start` or `adopt`."""
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, kind: str, *arguments: str) -> Self:
        """Start a worker of a kind (`worker.main`). Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command(kind, theirs.fileno(), *arguments),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                )
            except BaseException:
                ours.close()
                raise
        return cls(process, *await asyncio.open_connection(sock=ours))

    @classmethod
    async def adopt(cls, spare: Spare) -> Self:
        """Take over a worker that was started before the event loop."""
        return cls(spare, *await asyncio.open_connection(sock=spare.connection))

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
        with suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self.kill()
        self._writer.close()
        await self._process.wait()
