"""What one root has of earlier pods: the generation laid into it, and its objects as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc.aio

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.catalog import Catalog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.leases import Lease
from buildsvc.errors import BuildsvcError, StoreError
from buildsvc.log import get_logger
from buildsvc.store.contract import Store
from sidecar.agentclient import AgentClient
from sidecar.buildkit import BuildKit
from sidecar.cachemounts import not_restored
from sidecar.daemon import Lost
from sidecar.download import Downloads
from sidecar.locate import Found, Loadable, find_unfit, loadable
from sidecar.losses import Losses
from sidecar.paths import EpochPaths
from sidecar.plan import ObjectKey
from sidecar.restore import Restorer
from sidecar.room import Room
from sidecar.settings import Settings
from sidecar.status import Status

log = get_logger(__name__)

#: Seconds until a daemon that did not answer is asked again.
_AGAIN_AFTER = 1.0
#: Times that records which an idle daemon keeps are dropped: with a build they end a moment after
#: it, and each of a pair is told under one name.
_TRIES = 5


class Inherited:
    """Used in this order: ``fetch``, ``prefetch``, ``load``; nothing of it where there is none.

    ``on_lost`` is called with the reason when the root has to be given up for it.
    """

    def __init__(
        self,
        settings: Settings,
        paths: EpochPaths,
        agent: AgentClient,
        room: Room,
        *,
        store: Store | None,
        status: Status,
        losses: Losses,
        on_lost: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._paths = paths
        self._agent = agent
        self._room = room
        self._store = store
        self._status = status
        self._on_lost = on_lost
        #: The generation, from the moment on in which the root is not an empty one.
        self.root: cache_pb2.Root | None = None
        self.catalog = Catalog()
        #: Of all generations that were tried: what one lacks, another one may name too.
        self.losses = losses
        self._look_again = asyncio.Event()
        losses.told = self._look_again.set
        self._builds = 0
        self._publishes = False
        #: How often the records that a daemon keeps are still to be dropped.
        self._tries = _TRIES
        #: Records that the daemon may not serve builds with: what they need is lost.
        self.unfit: tuple[str, ...] = ()
        #: Whether leases do not work here, so that blobs must be on disk before the daemon.
        self.needs_blobs = False
        self._found: Found | None = None
        self._ready: Loadable | None = None
        self._restorer: Restorer | None = None
        #: Fetches objects until it is cancelled, from ``prefetch`` on.
        self.task: asyncio.Task[None] | None = None

    async def fetch(self, found: Found) -> Loadable:
        """Download what the daemon needs before it starts.

        Raises:
            BuildsvcError: it cannot be had; the root is still empty.
        """
        assert self._store is not None
        downloads = Downloads.within(
            self._settings.staging_limit,
            self._store,
            self._paths.down,
            concurrency=self._settings.download_concurrency,
            losses=self.losses,
        )
        patterns = not_restored(self._settings, found.key.trust_domain)
        return await loadable(found, downloads, self._paths, exclude=patterns)

    def prefetch(self, ready: Loadable) -> None:
        """Begin to download what the last build used, also before the agent is there."""
        self._restorer = Restorer(
            self._agent,
            ready.downloads,
            ready.plan,
            self._status,
            demand_timeout=self._settings.demand_timeout,
            on_lost=self._on_lost,
            room=self._room.has,
        )
        self.task = asyncio.create_task(self._restorer.run(), name="restore")

    async def load(self, ready: Loadable) -> None:
        """Lay a generation's databases, index and leased blobs into the root.

        Raises:
            Lost: the agent could not use them; the root is spoilt.
        """
        assert self._restorer is not None
        root = ready.plan.root
        # From here on the root is not an empty one, whatever comes of it.
        self.root = root
        self.unfit = ready.unfit
        try:
            await asyncio.to_thread(ready.place, self._paths.buildkit)
        except OSError as problem:
            raise Lost(f"the restored databases cannot be put in place: {problem}") from problem
        try:
            answer = await self._agent.load(ready.request)
        except grpc.aio.AioRpcError as problem:
            raise Lost(f"the restored state cannot be used: {problem.details()}") from problem
        self._restorer.loaded()
        self._found, self._ready = ready.found, ready
        self.catalog = Catalog.from_root(root, self.collection)
        self.needs_blobs = bool(answer.leases_unavailable)

    async def complete(self, wanted: Callable[[ObjectKey], bool]) -> None:
        """Wait for the restored objects that are ``wanted``, before the daemon starts.

        Raises:
            Lost: one of them cannot be had.
        """
        if self._restorer is None or self.task is None:
            return
        completing = asyncio.ensure_future(self._restorer.complete(wanted))
        ends: list[asyncio.Future[Any]] = [completing, self.task]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not completing.done():
                await self.task
            await completing
        except BuildsvcError as problem:
            raise Lost(str(problem)) from problem
        finally:
            completing.cancel()

    def demand(self, key: ObjectKey) -> None:
        """Have an object fetched ahead of everything else: buildkitd waits for it."""
        if self._restorer is not None:
            self._restorer.demand(key)

    async def drop_lost(self, api: BuildKit) -> None:
        """Have a running daemon drop what turns out to be lost before a build asks for it.

        It keeps records that a build uses, so it is told again when builds have ended, and some
        more times. Layers alone: a blob that is lost is asked for only by who pushes the layer to
        another registry.
        """
        if self._ready is None or self._restorer is None:
            return
        known: list[ObjectKey] = []
        left = frozenset[str]()
        while True:
            await self._look_again.wait()
            self._look_again.clear()
            lost = [
                key
                for key in await asyncio.to_thread(self._ready.plan.lacking, self.losses)
                if not key.is_blob and not self._restorer.has(key)
            ]
            try:
                if lost != known:
                    left, gone = await find_unfit(self._ready, lost, self._paths)
                    self._restorer.skip(frozenset(gone))
                    known, self._tries = lost, _TRIES
                if left and self._tries:
                    dropped = await api.prune([f"id=={record}" for record in left])
                    left -= dropped
                    self._tries -= 1
                    self._status.dropped(len(dropped))
                    if dropped or self._tries == _TRIES - 1:
                        log.warning(
                            "the store has lost layers", dropped=len(dropped), left=len(left)
                        )
                    if left and not self._builds:
                        asyncio.get_running_loop().call_later(_AGAIN_AFTER, self._look_again.set)
            except grpc.aio.AioRpcError:
                # It may be starting again.
                await asyncio.sleep(_AGAIN_AFTER)
                self._look_again.set()
            except (BuildsvcError, OSError) as problem:
                self._status.failed(problem)
                log.warning("the store has lost layers, and they stay", reason=str(problem))

    @property
    def lacked(self) -> bool:
        """Whether something was needed that the store has lost."""
        if self._ready is None or self._restorer is None or self._restorer.given_up is None:
            return False
        return self._ready.plan.lacks(self._restorer.given_up, self.losses)

    def builds_run(self, count: int) -> None:
        """Leave the processor to the builds, if there are any; drop what is lost after them."""
        self._builds = count
        self._leave_alone()
        if not count and self.losses:
            self._tries = _TRIES
            self._look_again.set()

    def publishes(self, *, under_way: bool) -> None:
        """Leave processor and link to a publication."""
        self._publishes = under_way
        self._leave_alone()

    def _leave_alone(self) -> None:
        if self._restorer is not None:
            self._restorer.hold(held=self._builds > 0 or self._publishes)

    @property
    def key(self) -> CacheKey | None:
        """The key that was restored from; None when nothing was."""
        return self._found.key if self._found else None

    @property
    def collection(self) -> int:
        """The newest collection that what was restored tells of."""
        return self._found.generation.head.collection if self._found else 0

    async def hold(self) -> None:
        """Keep the generation in the store, as long as that takes the lease."""
        if self._store is None or self._found is None:
            return
        try:
            await Lease(self._store, self._found.generation.head.root).hold()
        except StoreError as problem:
            # The cache is collected later then.
            log.warning("no lease on the restored generation", reason=str(problem))

    async def close(self) -> None:
        """Fetch nothing any more."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])
