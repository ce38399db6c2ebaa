"""HTTP servers inside the test's event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

#: Turns of the loop after which a connection that was accepted has its handler.
_TURNS = 4


@asynccontextmanager
async def serving(
    application: web.Application, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """The address at which the application answers, over TLS if its context is given."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    try:
        await web.SockSite(runner, listener, ssl_context=tls).start()
        host, port = listener.getsockname()
        yield f"{'http' if tls is None else 'https'}://{host}:{port}"
    finally:
        # Python 3.11 loses a connection that was accepted just before its server is closed.
        asyncio.get_running_loop().remove_reader(listener)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await runner.cleanup()
        listener.close()
