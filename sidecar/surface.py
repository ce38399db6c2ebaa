"""What others see of a running sidecar, put together: commands, pages, display."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from buildsvc.errors import EnvironmentUnfit
from buildsvc.log import get_logger
from buildsvc.logs import LogOptions
from sidecar.control import Commands, ControlServer
from sidecar.endpoint import Address, bind, bound_address
from sidecar.patience import client_waits
from sidecar.settings import Settings
from sidecar.status import Status

log = get_logger(__name__)

# The pages' library takes half a second to import; that must not come between a client and
# the daemon, nor into the first build. Requests wait in the backlog meanwhile.
_PAGES_AFTER_SECONDS = 2.0


@asynccontextmanager
async def surface(settings: Settings, status: Status, commands: Commands) -> AsyncIterator[None]:
    """Serve the command socket and the pages and, on a terminal, show progress.

    Enter it once the root is locked. Raises EnvironmentUnfit when the address asked for with
    ``http_listen`` is taken, CannotCreate when the command socket cannot be made.
    """
    listener = _bind_pages(settings)
    if listener is not None:
        status.serves_http(str(bound_address(listener)))
    async with ControlServer(settings.root, status, commands):
        tasks: list[asyncio.Task[None]] = []
        if listener is not None:
            tasks.append(asyncio.create_task(_pages(status, listener), name="http"))
        if LogOptions(settings.log_format, settings.log_level).human() and sys.stderr.isatty():
            tasks.append(asyncio.create_task(_progress(status), name="progress"))
        for task in tasks:
            task.add_done_callback(_ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            if listener is not None:
                listener.close()


def _bind_pages(settings: Settings) -> socket.socket | None:
    wanted = settings.http_address
    if wanted is None:
        return None
    try:
        return bind(wanted)
    except EnvironmentUnfit:
        # Nobody chose this port: a second sidecar on the machine takes another.
        if settings.origin("http_listen") != "default":
            raise
        listener = bind(Address(wanted.host, 0))
        log.warning("status pages moved", wanted=str(wanted), found=str(bound_address(listener)))
        return listener


async def _pages(status: Status, listener: socket.socket) -> None:
    await client_waits(listener)
    with suppress(TimeoutError):
        async with asyncio.timeout(_PAGES_AFTER_SECONDS):
            await status.until(lambda state: state.ready)
    # In a thread, so that the event loop goes on.
    await asyncio.to_thread(importlib.import_module, "sidecar.http")
    from sidecar.http import StatusServer

    async with StatusServer(status, listener):
        await asyncio.Event().wait()


async def _progress(status: Status) -> None:
    from sidecar.progress import show

    await show(status)


def _ended(task: asyncio.Task[None]) -> None:
    """Say that a display broke: builds go on without it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a display has ended", display=task.get_name(), exc_info=error)
