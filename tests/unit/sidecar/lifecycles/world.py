"""A sidecar's life in namespaces that a test plays."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from buildsvc.cache import roots
from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.packs import pack_name
from buildsvc.cache.roots import ChunkTable
from buildsvc.store.contract import Store
from sidecar.beginning import Beginning
from sidecar.cachestore import cache_keys
from sidecar.lifecycle import Lifecycle
from sidecar.paths import EpochPaths, next_number
from sidecar.room import Room
from sidecar.rootdir import RootDirectory
from sidecar.rootlesskit import NamespaceOptions
from sidecar.settings import Settings
from sidecar.status import Status
from sidecar.trust import Trust
from tests.unit.cache.fakes import MemoryStore
from tests.unit.sidecar.fakeagent import generation
from tests.unit.sidecar.fakedaemon import FakeDaemon
from tests.unit.sidecar.fakenamespace import FakeNamespace

BUILDKITD = "#!/bin/sh\necho buildkitd github.com/moby/buildkit v0.33.1 1234abc\n"

#: In rootlesskit's place: runs its arguments as they are.
HERE = '#!/bin/sh\nexec "$@"\n'

Script = Callable[[FakeNamespace], None]
"""What happens to a namespace at first."""


class World:
    """A sidecar whose namespaces a test plays."""

    def __init__(self, settings: Settings, root: RootDirectory, listener: socket.socket) -> None:
        self.settings = settings
        self.memory = MemoryStore()
        self.store: Store | None = self.memory
        self.trust = Trust()
        self.status = Status()
        self.stop = asyncio.Event()
        #: The namespaces in the order of their making, and what happens to each at first.
        self.namespaces: list[FakeNamespace] = []
        self.script: list[Script] = []
        #: Epochs of an earlier sidecar.
        self.left: list[Path] = []
        self._root = root
        self._listener = listener

    def namespace(self, options: NamespaceOptions) -> FakeNamespace:
        """In the place of Namespace."""
        made = FakeNamespace(EpochPaths(options.state_dir.parents[1]))
        if len(self.namespaces) < len(self.script):
            self.script[len(self.namespaces)](made)
        self.namespaces.append(made)
        return made

    async def publish(self) -> None:
        """Put a generation of one layer into the store."""
        packs = self._root.path / "packs"
        await asyncio.to_thread(packs.mkdir)
        root = await generation(self.memory, packs, {"layer": b"L" * 100})
        log = GenerationLog(self.memory, cache_keys(self.settings, "v0.33.1").own)
        await log.publish(root, parent=None)

    async def publish_and_lose(self, layer: str) -> None:
        """Publish, and lose the bytes of the layer; buildkitd's databases are whole."""
        await self.publish()
        (root,) = [
            roots.decode_root(data, bytes.fromhex(name.rpartition("/")[2]))
            for name, data in self.memory.objects.items()
            if name.startswith("roots/")
        ]
        (at,) = [
            at
            for item in root.snapshots
            if item.info.name == layer
            for at in ChunkTable(root).locate(item.tree.data)
        ]
        del self.memory.objects[pack_name(at.pack)]

    def spoil(self, prefix: str) -> None:
        """Overwrite what the store has under these names."""
        for name in self.memory.objects:
            if name.startswith(prefix):
                self.memory.objects[name] = bytes(len(self.memory.objects[name]))

    def life(self) -> Lifecycle:
        number = next_number(list(self.left))
        beginning = Beginning(
            self._root, tuple(self.left), number, Room(self._root.path), "host", None
        )
        return Lifecycle(
            self.settings,
            self._listener,
            self.status,
            beginning,
            store=self.store,
            trust=self.trust,
            stop=self.stop,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """It runs; in the end it is told to stop, and has to."""
        running = asyncio.create_task(self.life().run())
        try:
            yield running
        finally:
            self.stop.set()
            await running

    async def begins(self, ref: str) -> FakeDaemon:
        """A build begins at the newest daemon, and the sidecar has seen it."""
        daemon = self.namespaces[-1].daemon
        daemon.begins(ref)
        await self.status.until(lambda status: any(span.name == ref for span in status.timeline))
        return daemon

    async def ready(self, epoch: int = 1) -> None:
        await self.status.until(lambda status: status.ready and status.epoch == epoch)


def cold_starts(world: World) -> dict[str, int]:
    return dict(world.status.counts.family("cold_starts"))
