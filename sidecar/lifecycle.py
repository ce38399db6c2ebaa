"""The sidecar's life: the one place that decides what happens next.

    lock the root → open an epoch while the newest generation is located → load it, or go
    cold → start the daemon → serve builds and publish after them → SIGTERM: drain, stop

A lost root begins a new epoch; clients wait in the listener's backlog meanwhile. It is empty,
unless the store was found to have lost something of the generation: then that is restored once
more, without what cannot be had and what is built on it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

from buildsvc.errors import EnvironmentUnfit, UsageError
from buildsvc.log import get_logger
from buildsvc.store.contract import Store
from sidecar import cachestore, rootdir
from sidecar.beginning import Beginning, namespace_options
from sidecar.control import CheckpointReport
from sidecar.daemon import Lost
from sidecar.endpoint import bound_address
from sidecar.endpoint_file import write_endpoint_file
from sidecar.environment import allowed
from sidecar.epoch import Epoch
from sidecar.guardclient import Namespace
from sidecar.launch import Launch
from sidecar.losses import Losses
from sidecar.paths import EpochPaths, epoch_paths
from sidecar.publish import Publisher
from sidecar.publishing import Policy, Publishing
from sidecar.restoring import Restoration
from sidecar.settings import Settings
from sidecar.status import Phase, Status
from sidecar.tls import Certificates, needs_tls
from sidecar.trust import Trust
from sidecar.userns import EndedEarly
from sidecar.versions import BUILDKIT_VERSION

log = get_logger(__name__)

#: Seconds of the grace period that stopping daemon and namespace may take.
_STOP_WITHIN = 10.0


class Lifecycle:
    """Goes through epochs until it is told to stop. Implements the socket's commands."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        status: Status,
        beginning: Beginning,
        *,
        store: Store | None,
        trust: Trust,
        stop: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._status = status
        self._beginning = beginning
        self._root = beginning.root
        self._network = beginning.network
        self._room = beginning.room
        self._store = store
        self._trust = trust
        self._stop = stop
        self._publishing: Publishing | None = None
        self._replaces = False
        self._losses = Losses()
        self._mending = False

    async def run(self) -> None:
        """Serve until ``stop`` is set.

        Raises:
            BuildsvcError: no daemon can be started here, not even a cold one.
        """
        settings = self._settings
        # Only the cache needs to know it, and asking takes as long as making a namespace.
        asking = asyncio.ensure_future(cachestore.buildkit_version(settings.program("buildkitd")))
        self._version = asking
        self._restoration = Restoration(
            settings, self._listener, self._status, asking, store=self._store, trust=self._trust
        )
        self._launch = Launch(settings, os.environ, await self._endpoint())
        sweeping = asyncio.ensure_future(self._sweep(self._beginning.left))
        number = self._beginning.number
        namespace = self._beginning.namespace
        cold = ""
        again = False
        try:
            while not self._stop.is_set():
                paths = epoch_paths(self._root.path, number)
                await self._make(paths, sweeping, made=namespace is not None)
                try:
                    cold = await self._epoch(number, paths, namespace, cold)
                    again = False
                except EndedEarly as problem:
                    if again:
                        raise
                    again = True
                    log.warning("making the namespace once more", reason=str(problem))
                number, namespace = number + 1, None
                await sweeping
                sweeping = asyncio.ensure_future(self._sweep([paths.base]))
        finally:
            # Whatever is left is swept by the next sidecar of this root.
            sweeping.cancel()
            asking.cancel()
            await asyncio.gather(asking, sweeping, return_exceptions=True)

    async def checkpoint(self) -> CheckpointReport:
        """Take a checkpoint when the daemon is idle and publish it; return when that is done.

        Raises:
            UsageError: this sidecar does not publish, or serves no daemon at this moment.
        """
        if self._publishing is None:
            raise UsageError(
                "there is nothing to publish from",
                expected="a sidecar with a store that serves builds",
                found="no store, --publish never, or a daemon that is starting or stopping",
            )
        return await self._publishing.checkpoint()

    async def _endpoint(self) -> Certificates | None:
        """Make certificates if the endpoint needs them and say where clients connect."""
        isolated = self._network == "own"
        certificates: Certificates | None = None
        if needs_tls(self._settings, isolated=isolated):
            from sidecar.certificates import make_certificates

            server = self._root.path / "tls" / "server"
            certificates = await asyncio.to_thread(
                make_certificates, server, self._settings.tls_client_path,
                self._settings.address.host,
            )  # fmt: skip
        address = bound_address(self._listener)
        client = certificates.client if certificates else None
        await asyncio.to_thread(write_endpoint_file, self._settings.endpoint_path, address, client)
        self._status.serves(str(address), tls=certificates is not None, isolated=isolated)
        where = {} if client is None else {"tlsdir": str(client.directory)}
        log.info("listening", endpoint=str(address), tls=client is not None, **where)
        return certificates

    async def _sweep(self, directories: Sequence[Path]) -> None:
        if directories:
            environment = allowed(os.environ)
            program = self._settings.program("rootlesskit")
            try:
                status = await rootdir.sweep(program, directories, environment)
            except OSError as problem:
                log.warning("an old root could not be deleted", reason=str(problem))
                return
            if status:
                log.warning("an old root could not be deleted", status=status)

    async def _make(self, paths: EpochPaths, sweeping: asyncio.Future[None], *, made: bool) -> None:
        """Make an epoch's directories, unless they are ``made``, and what is in them at first.

        Raises:
            CannotCreate: there is no room, even without what earlier epochs left.
        """
        if not made and not self._room.has(0):
            await sweeping
        self._room.expect()
        with paths.making():
            if not made:
                await asyncio.to_thread(paths.make)
            await asyncio.to_thread(self._launch.write_config, paths)

    async def _epoch(
        self, number: int, paths: EpochPaths, namespace: Namespace | None, cold: str
    ) -> str:
        """Run one epoch to its end; return why the next one must be cold.

        It is empty after ``stop``, and when the next one can do without what was lost.
        """
        if namespace is None:
            namespace = Namespace(
                namespace_options(self._settings, self._root, self._listener, paths, self._network)
            )
        self._status.epoch = number
        epoch = Epoch(
            self._settings, paths, namespace, self._launch, self._room,
            store=self._store, status=self._status, losses=self._losses,
        )  # fmt: skip
        try:
            if await self._unless_stopped(self._restored(epoch, cold)):
                await self._serve(epoch)
        except Lost as lost:
            if epoch.inherited.root is None and not epoch.admitted:
                if epoch.died:
                    raise EndedEarly(
                        "the cold daemon's root was lost before it answered",
                        found=str(lost),
                        advice=f"see {self._root.path / 'logs' / 'daemon.log'}",
                    ) from lost
                raise await self._no_daemon(lost) from lost
            if epoch.inherited.lacked and not self._mending:
                self._mend(number, str(lost), admitted=epoch.admitted)
                return ""
            return self._lost(number, str(lost), admitted=epoch.admitted)
        else:
            return ""
        finally:
            await epoch.close(_STOP_WITHIN / 2)

    async def _no_daemon(self, lost: Lost) -> EnvironmentUnfit:
        program = self._settings.program("buildkitd")
        try:
            version = await asyncio.shield(self._version)
        except EnvironmentUnfit as unfit:
            return unfit
        return EnvironmentUnfit(
            "buildkitd does not start on an empty root",
            expected=f"buildkitd {BUILDKIT_VERSION}, which the sidecar is made for",
            found=f"{program}, which says that it is {version}; {lost}",
            advice=f"see {self._root.path / 'logs' / 'daemon.log'}",
        )

    async def _unless_stopped(self, starting: Coroutine[object, object, None]) -> bool:
        """Run it to its end, unless ``stop`` comes first; tell whether it ended."""
        task = asyncio.ensure_future(starting)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            ends: list[asyncio.Future[Any]] = [task, stopping]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
                return True
            return False
        finally:
            stopping.cancel()
            task.cancel()
            await asyncio.wait([task])

    def _mend(self, number: int, reason: str, *, admitted: bool) -> None:
        """Restore again, once: of a store that goes on losing each loss would fail a build."""
        log.error("the root is lost; restoring again without what is lost", reason=reason)
        self._status.enter(Phase.STARTING_DAEMON, "the daemon moves to a root without what is lost")
        if admitted:
            self._status.lost_root(number + 1, reason)
        self._mending = True

    def _lost(self, number: int, reason: str, *, admitted: bool) -> str:
        log.error("the root is lost; going on with an empty one", reason=reason)
        self._status.enter(Phase.STARTING_DAEMON, "the daemon moves to an empty root")
        self._replaces = True
        if admitted:
            self._status.lost_root(number + 1, reason)
            self._status.went_cold("root-lost", reason)
        else:
            self._status.went_cold("daemon-refused", reason)
        return reason

    async def _restored(self, epoch: Epoch, cold: str) -> None:
        """Open the epoch and lay the newest generation into it, unless there is a reason not to.

        Raises:
            Lost: the generation spoilt the root.
        """
        if cold:
            await epoch.open()
            return
        reason = await self._restoration.into(epoch)
        # Where there is a generation that could not be used, it is not to be replaced by what a
        # failed build leaves.
        self._replaces = reason not in (None, "no-store", "no-generation")
        if self._mending and reason is None:
            self._status.mended()

    async def _serve(self, epoch: Epoch) -> None:
        """Serve builds until ``stop``, then publish what is left.

        Raises:
            Lost: the root was lost.
        """
        # Prefetching begins here, while the daemon starts.
        async with epoch.serving():
            self._status.enter(Phase.STARTING_DAEMON, "buildkitd is starting")
            try:
                await epoch.start_daemon()
            except Lost as lost:
                epoch.lose(str(lost))
            else:
                await self._until_the_end(epoch)
        if epoch.lost.done():
            raise Lost(epoch.lost.result())

    async def _until_the_end(self, epoch: Epoch) -> None:
        self._publishing = await self._publisher(epoch)
        self._status.enter(Phase.READY)
        log.info("ready", endpoint=self._status.endpoint)
        ends: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._stop.wait()), epoch.lost]
        following: list[asyncio.Future[Any]] = []
        if self._publishing is not None:
            following.append(asyncio.create_task(self._publishing.run(), name="publishing"))
            following[0].add_done_callback(self._publishing_ended)
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            _cancel(following)
            if not epoch.lost.done():
                await self._drain(epoch)
        finally:
            _cancel([*ends[:1], *following])
            if self._publishing is not None:
                await self._publishing.close()
            self._publishing = None

    async def _publisher(self, epoch: Epoch) -> Publishing | None:
        if self._store is None or self._settings.publish == "never":
            return None
        version = await asyncio.shield(self._version)
        key = cachestore.cache_keys(self._settings, version).own
        log_of_key = self._trust.log(self._store, key)
        found = epoch.inherited.key
        origin = self._trust.log(self._store, found) if found not in (None, key) else None
        publisher = Publisher(log_of_key, version, cachestore.this_platform(), origin)
        policy = Policy(self._settings.publish, self._replaces)
        return Publishing(epoch, publisher, key, policy, self._status)

    async def _drain(self, epoch: Epoch) -> None:
        """Wait for builds and publish, within the grace period.

        At the deadline the last idle state stays what is published.
        """
        self._status.enter(Phase.DRAINING)
        ending = self._publishing.drain() if self._publishing else epoch.idle()
        draining = asyncio.ensure_future(ending)
        limit = max(self._settings.grace - _STOP_WITHIN, 0.0)
        ends: list[asyncio.Future[Any]] = [draining, epoch.lost]
        await asyncio.wait(ends, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done() and not epoch.lost.done():
            self._status.skipped_checkpoint("deadline")
            log.warning("not published", reason="the grace period ended first")
        if draining.done():
            draining.result()
        draining.cancel()

    def _publishing_ended(self, task: asyncio.Future[Any]) -> None:
        """Say that a defect ended publication: builds go on, they are worth more."""
        if not task.cancelled() and (defect := task.exception()) is not None:
            self._status.failed(defect)
            log.error("nothing is published any more", exc_info=defect)


def _cancel(futures: Iterable[asyncio.Future[Any]]) -> None:
    for future in futures:
        future.cancel()
