"""A small HTTP object server over a directory, for tests and for measurements over loopback.

    python -m perf.objectserver --directory DIR [--listen 127.0.0.1:0]

It prints its address as one line when it answers. The protocol is that of
``buildsvc.store.http``; the directory is a ``LocalStore``. No authentication, no TLS: loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from buildsvc.errors import (
    InvalidName,
    ObjectExists,
    ObjectNotFound,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from buildsvc.store.httplist import format_page
from buildsvc.store.local import LocalStore

if TYPE_CHECKING:
    from buildsvc.store.contract import ObjectStat

_STEP = 1 << 20
_PAGE = 1000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: tuple[tuple[type[StoreError], int], ...] = (
    (InvalidName, 400),
    (ObjectNotFound, 404),
    (ObjectExists, 412),
    (StoreRefused, 507),
    (StoreUnavailable, 503),
    (StoreError, 500),
)


class ObjectServer:
    """The handlers, over ``store``."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def application(self) -> web.Application:
        """The routes; closes the store when the application ends."""
        # Bodies are streamed to the disk, so their size needs no bound here.
        app = web.Application(middlewares=[_errors_as_statuses], client_max_size=0)
        app.router.add_get("/", self._list)
        app.router.add_get("/{name:.+}", self._get)
        app.router.add_put("/{name:.+}", self._put)
        app.router.add_delete("/{name:.+}", self._delete)
        app.on_cleanup.append(self._close)
        return app

    async def _get(self, request: web.Request) -> web.StreamResponse:
        # With Range, HEAD and sendfile(2).
        name = request.match_info["name"]
        await self._store.stat(name)
        return web.FileResponse(self._store.path(name), chunk_size=_STEP)

    async def _put(self, request: web.Request) -> web.Response:
        condition = request.headers.get("If-None-Match")
        if condition not in {None, "*"}:
            raise web.HTTPBadRequest(text="If-None-Match: only * is supported\n")
        await self._store.receive(
            request.match_info["name"],
            request.content.iter_chunked(_STEP),
            exclusive=condition == "*",
            size=request.content_length,
        )
        return web.Response(status=201)

    async def _delete(self, request: web.Request) -> web.Response:
        await self._store.delete(request.match_info["name"])
        return web.Response(status=204)

    async def _list(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "")
        page: list[ObjectStat] = []
        more = False
        async for stat in self._store.list(request.query.get("prefix", "")):
            if stat.name > after:
                if len(page) == _PAGE:
                    more = True
                    break
                page.append(stat)
        return web.Response(body=format_page(page, more=more), content_type="application/json")

    async def _close(self, _: web.Application) -> None:
        await self._store.close()


@web.middleware
async def _errors_as_statuses(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except StoreError as error:
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        return web.Response(status=status, text=f"{error}\n")


async def serve(directory: Path, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; prints the address."""
    runner = web.AppRunner(ObjectServer(LocalStore(directory)).application(), access_log=None)
    await runner.setup()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await web.TCPSite(runner, host, port).start()
        bound_host, bound_port = runner.addresses[0][:2]
        sys.stdout.write(f"http://{bound_host}:{bound_port}\n")
        sys.stdout.flush()
        await stop.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="objectserver", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    asyncio.run(serve(options.directory, host, int(port)))


if __name__ == "__main__":
    main()
