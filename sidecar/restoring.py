"""Bringing the newest generation into an empty root, as long as clients can wait for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine

from buildsvc.log import get_logger
from buildsvc.store.contract import Store
from sidecar import cachestore, patience
from sidecar.daemon import Lost
from sidecar.epoch import Epoch
from sidecar.locate import Cold, Found, Loadable, PassedOver, locate
from sidecar.patience import Patience
from sidecar.settings import Settings
from sidecar.status import Generation, Phase, Status
from sidecar.timeline import Kind
from sidecar.trust import Trust

log = get_logger(__name__)

#: Of what was passed over, how much the status tells.
_TOLD = 3


class Restoration:
    """Restores into one epoch. ``version`` resolves with that of buildkitd."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        status: Status,
        version: asyncio.Future[str],
        *,
        store: Store | None,
        trust: Trust,
    ) -> None:
        self._settings = settings
        self._store = store
        self._trust = trust
        self._listener = listener
        self._status = status
        self._version = version
        self._passed = _Passed()

    async def into(self, epoch: Epoch) -> str | None:
        """Open the epoch and lay the newest generation into it; why that was not done, if so.

        Raises:
            Lost: the generation spoilt the root.
        """
        clients = Patience(self._listener)
        opening = asyncio.ensure_future(epoch.open())
        self._status.enter(Phase.RESTORING, "the cache is being located")
        span = self._status.begin(Kind.RESTORE, self._settings.cache_key)
        try:
            found, loadable = await self._patiently(self._fetched(epoch), clients)
            epoch.inherited.prefetch(loadable)
            await opening
            await epoch.inherited.load(loadable)
            await self._completed(epoch, clients)
            self._announce(found, len(loadable.plan.contents))
            span.end(number=found.generation.number)
        except Cold as cold:
            if cold.__cause__ is not None:
                self._status.failed(cold.__cause__)
            self._status.went_cold(cold.reason, str(cold))
            log.warning("starting cold", reason=str(cold))
            span.end("cold", reason=str(cold))
            await opening
            return cold.reason
        else:
            return None
        finally:
            span.end("failed")
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)

    async def _completed(self, epoch: Epoch, clients: Patience) -> None:
        """Put on disk what must be there before the daemon, as long as clients can wait.

        Raises:
            Lost: it cannot be had, or not in time.
        """
        if self._settings.restore == "complete":
            await epoch.inherited.complete(lambda _: True)
        elif epoch.inherited.needs_blobs:
            blobs = asyncio.ensure_future(epoch.inherited.complete(lambda key: key.is_blob))
            try:
                if not await clients.wait(blobs):
                    raise Lost("leases do not work here, and fetching all blobs takes too long")
                await blobs
            finally:
                blobs.cancel()

    async def _fetched(self, epoch: Epoch) -> tuple[Found, Loadable]:
        if self._store is None:
            raise Cold("no-store", "no store is set (--store)")
        keys = cachestore.cache_keys(self._settings, await asyncio.shield(self._version))

        # Who waits for all of a generation does not look for one without end.
        search = asyncio.timeout(patience.IDLE_PATIENCE)

        async def fetched(found: Found) -> tuple[Found, Loadable]:
            search.reschedule(None)
            try:
                return found, await epoch.inherited.fetch(found)
            except OSError as problem:
                raise Cold("no-room", f"the databases cannot be written: {problem}") from problem
            finally:
                now = asyncio.get_running_loop().time()
                search.reschedule(now + patience.IDLE_PATIENCE)

        logs = [self._trust.log(self._store, key) for key in keys.all]
        self._passed = _Passed()
        try:
            async with search:
                return await locate(logs, fetched, self._pass)
        except TimeoutError as problem:
            if not search.expired():
                raise
            raise Cold("time-out", "no usable generation was found in time") from problem

    def _pass(self, over: PassedOver) -> None:
        told = self._passed.add(over)
        self._status.count("passed_over", over.reason)
        if over.problem is not None:
            self._status.failed(over.problem)
        say = log.warning if over.problem is not None and told else log.debug
        say("passed over", key=over.name, reason=str(over))

    async def _patiently(
        self, fetching: Coroutine[object, object, tuple[Found, Loadable]], clients: Patience
    ) -> tuple[Found, Loadable]:
        """Wait as long as clients can; with ``--restore=complete`` they wait for everything."""
        task = asyncio.ensure_future(fetching)
        try:
            if self._settings.restore == "complete" or await clients.wait(task):
                return await task
        finally:
            task.cancel()
        raise Cold("time-out", "the store did not give the databases in time")

    def _announce(self, found: Found, objects: int) -> None:
        head, domain = found.generation.head, found.key.trust_domain
        generation = Generation(
            asked_key=self._settings.cache_key,
            found_key=found.key.name,
            found_domain="" if domain == self._settings.trust_domain else domain,
            number=head.number,
            created_unix=head.created_unix_ns / 1e9,
            because=str(self._passed),
            cold_build_seconds=found.root.cold_build_seconds,
        )
        self._status.restores(generation, objects)
        log.info("restored", key=found.key.name, generation=head.number, objects=objects)


class _Passed:
    """Why it is not the newest generation of the key asked for: the first reasons, and how many.

    Its text is empty when it is.
    """

    def __init__(self) -> None:
        self._first: list[str] = []
        self._more = 0

    def add(self, over: PassedOver) -> bool:
        """Add one; return whether it is among the first."""
        if len(self._first) == _TOLD:
            self._more += 1
            return False
        self._first.append(str(over))
        return True

    def __str__(self) -> str:
        return "; ".join(self._first) + (f"; and {self._more} more" if self._more else "")
