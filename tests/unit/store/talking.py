"""A server that a test plays, byte for byte, and a store on it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from buildsvc.store.http import HttpStore
from buildsvc.store.timeouts import HttpTimeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Talk = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: So long that a thread which waits for one of them fails the test by the test's own limit.
LONG = HttpTimeouts(total=1000, connect=1000, idle=1000)
HEAD_OF_TEN = b"HTTP/1.1 206 x\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/10\r\n\r\n"
DATA = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata"


@contextlib.asynccontextmanager
async def talking(talk: Talk, connections: int = 16) -> AsyncIterator[HttpStore]:
    """A store whose server is ``talk``, told the number of the connection from 1."""
    talks: list[asyncio.Task[None] | None] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        try:
            await talk(len(talks), reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        store = HttpStore(f"http://127.0.0.1:{port}", LONG, connections)
        try:
            yield store
        finally:
            await store.close()
            # All of them end, because the store has hung up.
            await asyncio.gather(*filter(None, talks))


async def request(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request; empty when the client hung up."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
