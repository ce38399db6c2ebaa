"""An epoch in a namespace that a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.generations import Generation
from sidecar.epoch import Epoch
from sidecar.launch import Launch
from sidecar.locate import Found, Loadable
from sidecar.losses import Losses
from sidecar.paths import EpochPaths
from sidecar.room import Room
from sidecar.settings import Settings
from sidecar.status import Status
from sidecar.timeline import Kind
from tests.unit.cache.fakes import MemoryStore
from tests.unit.sidecar.fakeagent import generation
from tests.unit.sidecar.fakenamespace import FakeNamespace
from tests.unit.sidecar.test_locate import MINE


class Scene:
    """An epoch in a namespace that a test plays."""

    def __init__(self, settings: Settings, launch: Launch, paths: EpochPaths) -> None:
        self.paths = paths
        self.namespace = FakeNamespace(paths)
        self.status = Status()
        self.store = MemoryStore()
        room = Room(Path("/"))
        self.epoch = Epoch(
            settings, paths, self.namespace, launch, room,
            store=self.store, status=self.status, losses=Losses(),
        )  # fmt: skip

    async def fetch(self) -> Loadable:
        """Fetch a generation of one layer."""
        packs = self.paths.base / "packs"
        await asyncio.to_thread(packs.mkdir)
        root = await generation(self.store, packs, {"layer": b"L" * 100}, used=("layer",))
        head = cache_pb2.Head(number=1, root=b"r" * 32, collection=3)
        found = Found(MINE, Generation(head, b""), root)
        return await self.epoch.inherited.fetch(found)

    async def load(self) -> None:
        """Restore it."""
        ready = await self.fetch()
        self.epoch.inherited.prefetch(ready)
        await self.epoch.inherited.load(ready)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        await self.epoch.open()
        async with self.epoch.serving():
            await self.epoch.start_daemon()
            yield

    async def begins(self, ref: str) -> None:
        """A build begins, and the epoch has seen it."""
        self.namespace.daemon.begins(ref)
        await self.status.until(lambda status: any(span.name == ref for span in status.timeline))

    async def died_and_answers_again(self, status: int = -9) -> None:
        """The daemon alone dies, and the one after it has answered, first to the sidecar alone."""
        before = self._answers()
        await self.namespace.daemon_dies(status)
        await self.status.until(lambda _: self._answers() > before + 1)

    def _answers(self) -> int:
        spans = (span for span in self.status.timeline if span.kind is Kind.DAEMON)
        return sum(span.outcome == "ok" for span in spans)
