"""An object server in the test's own event loop: a test can interfere with each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from buildsvc.store.local import LocalStore
from perf.objectserver import ObjectServer


@dataclass(frozen=True)
class Request:
    """What a sidecar asks of the store. ``done``: it has been carried out, not yet answered."""

    method: str
    name: str
    done: bool = False

    @property
    def writes(self) -> bool:
        """Whether it changes the store."""
        return self.method == "PUT"


#: Called before and after each request is carried out. An answer that it returns is given
#: instead of the real one.
Hook = Callable[[Request], Awaitable[web.StreamResponse | None]]


async def undisturbed(_: Request) -> None:
    """Let everything pass."""


class Objects:
    """The server; ``hook`` may be changed at any time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""
        self.hook: Hook = undisturbed
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        """Serve, on the port of before if one is given."""
        application = ObjectServer(LocalStore(self.directory)).application()
        application.middlewares.append(self._watched)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        connections = self._runner.server
        assert connections is not None
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(connections, "127.0.0.1", port)
        host, bound = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{bound}"

    async def die(self) -> None:
        """Drop every connection and refuse new ones."""
        if self._runner is not None and self._server is not None:
            # What was accepted at the last moment is a connection only when its task has ended,
            # and would not be one of a server that is closed by then: none would end it.
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening)
            if accepting := [task for task in asyncio.all_tasks() if _accepts(task)]:
                await asyncio.wait(accepting)
            self._server.close()
            await self._runner.cleanup()
            self._runner = self._server = None

    @property
    def names(self) -> list[str]:
        """Names of the objects that there are."""
        files = (path for path in self.directory.rglob("*") if path.is_file())
        names = (str(path.relative_to(self.directory)) for path in files)
        return sorted(name for name in names if not name.startswith("."))

    @property
    def heads(self) -> list[int]:
        """Numbers of the published generations, of all keys."""
        return sorted(int(name.rpartition("/")[2]) for name in self.names if "/heads/" in name)

    @property
    def packs(self) -> list[Path]:
        """Files of the packs."""
        return [self.directory / name for name in self.names if name.startswith("packs/")]

    @web.middleware
    async def _watched(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        name = request.match_info.get("name") or request.query.get("prefix", "")
        method = request.method if request.match_info.get("name") else "LIST"
        if (instead := await self.hook(Request(method, name))) is not None:
            return instead
        answer = await handler(request)
        instead = await self.hook(Request(method, name, done=True))
        return answer if instead is None else instead


def _accepts(task: asyncio.Task[object]) -> bool:
    return getattr(task.get_coro(), "__name__", "") == "_accept_connection2"


@asynccontextmanager
async def objects(directory: Path) -> AsyncIterator[Objects]:
    """Serve a directory for the time of a block."""
    server = Objects(directory)
    await server.start()
    try:
        yield server
    finally:
        await server.die()


async def never(_: Request) -> web.StreamResponse:
    """Accept the request and say nothing more."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")
