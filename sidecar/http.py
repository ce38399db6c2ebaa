"""Read-only pages over HTTP: health, readiness, metrics, status, and the timeline."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from importlib.resources import files
from types import TracebackType
from typing import Self

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from sidecar.endpoint import bound_address
from sidecar.metrics import registry
from sidecar.status import Status

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The page brings its own style and script and talks to nobody else.
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class StatusServer:
    """Serves the pages on a bound socket while it is entered."""

    def __init__(self, status: Status, listener: socket.socket) -> None:
        self._status = status
        self._listener = listener
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Start to serve."""
        middlewares = [_only_this_host] if bound_address(self._listener).loopback else []
        app = web.Application(middlewares=middlewares)
        pages = _Pages(self._status, await asyncio.to_thread(_page_text))
        app.router.add_get("/healthz", pages.healthz)
        app.router.add_get("/readyz", pages.readyz)
        app.router.add_get("/metrics", pages.metrics)
        app.router.add_get("/status", pages.status)
        app.router.add_get("/", pages.timeline)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.SockSite(self._runner, self._listener).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the socket and the connections."""
        assert self._runner is not None
        await self._runner.cleanup()


def _page_text() -> str:
    return files("sidecar").joinpath("page.html").read_text(encoding="utf-8")


class _Pages:
    def __init__(self, status: Status, page: str) -> None:
        self._status = status
        self._metrics = registry(status)
        self._page = page

    async def healthz(self, _request: web.Request) -> web.Response:
        """The event loop answers: alive. For liveness and startup probes."""
        return web.Response(text="ok\n")

    async def readyz(self, _request: web.Request) -> web.Response:
        status = self._status
        return web.json_response(
            {"ready": status.ready, "phase": status.phase.value, "reason": status.waiting_for},
            status=200 if status.ready else 503,
        )

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(self._metrics), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def status(self, request: web.Request) -> web.Response:
        since = request.query.get("since", "0")
        if not (since.isascii() and since.isdigit() and len(since) < 20):
            return web.json_response({"error": "since is a version: a whole number"}, status=400)
        return web.json_response(self._status.snapshot(since=int(since)))

    async def timeline(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._page, content_type="text/html", headers=_PAGE_HEADERS)


@web.middleware
async def _only_this_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse names that merely resolve to loopback: a web page elsewhere could read along."""
    name = request.host.rpartition(":")[0] if request.host[-1:].isdigit() else request.host
    if (name or request.host) not in _LOOPBACK_NAMES:
        raise web.HTTPForbidden(text="ask for localhost\n")
    return await handler(request)
