"""What a sidecar is built from, in which order, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from buildsvc.store.address import parse_address
from buildsvc.store.contract import Store
from sidecar import rootdir
from sidecar.beginning import begin
from sidecar.settings import Settings
from sidecar.status import Phase, Status


async def run(settings: Settings, listener: socket.socket, status: Status) -> int:
    """Run one sidecar until SIGTERM or SIGINT; return the exit code.

    Raises:
        BuildsvcError: it cannot start; the text says what to do.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        root = await stack.enter_async_context(rootdir.locked(settings.root, stop))
        if settings.store:
            parse_address(settings.store)
            settings = settings.named(os.environ)
        beginning = await begin(settings, root, listener)
        if beginning.namespace is not None:
            stack.push_async_callback(beginning.namespace.close)
        # Only now: this takes as long as rootlesskit does to make the namespace.
        from sidecar.lifecycle import Lifecycle
        from sidecar.surface import surface
        from sidecar.trust import read_trust

        trust = await asyncio.to_thread(read_trust, settings)
        isolated = beginning.network == "own"
        store = await stack.enter_async_context(_store(settings, status, isolated=isolated))
        life = Lifecycle(settings, listener, status, beginning, store=store, trust=trust, stop=stop)
        await stack.enter_async_context(surface(settings, status, life))
        await life.run()
    # Nobody listens any more.
    await asyncio.to_thread(settings.endpoint_path.unlink, missing_ok=True)
    status.enter(Phase.STOPPED)
    return 0


@asynccontextmanager
async def _store(
    settings: Settings, status: Status, *, isolated: bool
) -> AsyncIterator[Store | None]:
    if not settings.store:
        yield None
        return
    from sidecar import cachestore

    cachestore.check_role(settings, isolated=isolated)
    store = cachestore.cache_store(settings, status.store)
    try:
        yield store
    finally:
        await store.close()
