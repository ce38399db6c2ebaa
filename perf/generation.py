"""Looks into a store: what a generation holds, and what it added."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.store.open import open_store
from perf.host import PerfError, program
from sidecar.cachestore import buildkit_version, cache_keys
from sidecar.settings import Settings


@dataclass(frozen=True)
class Published:
    """One generation as it lies in the store."""

    number: int
    root: cache_pb2.Root

    @property
    def stored_bytes(self) -> int:
        """Bytes of all packs that it names."""
        return sum(pack.size for pack in self.root.packs)

    @property
    def trace(self) -> list[str]:
        """Snapshots and blobs in the order of their use, those of the publishing pod first."""
        return list(self.root.trace.used)

    @property
    def database_bytes(self) -> int:
        """Stored bytes of the databases, shared chunks counted too."""
        return self._stored([*self.root.databases.tree, *self.root.databases.data])

    def added(self, before: Published) -> list[str]:
        """Names of the snapshots that the one before does not have; views have no content."""
        known = {snapshot.info.name for snapshot in before.root.snapshots}
        found = (s.info.name for s in self.root.snapshots if s.HasField("tree"))
        return [name for name in found if name not in known]

    def new_bytes(self, before: Published) -> dict[str, int]:
        """Stored bytes of the chunks that the one before does not have, by what they are for."""
        known = _digests(before.root)
        fresh = {i for i, chunk in enumerate(_chunks(self.root)) if chunk not in known}
        parts: dict[str, set[int]] = {
            "databases": {*self.root.databases.tree, *self.root.databases.data},
            "blobs": {i for blob in self.root.blobs for i in blob.data},
        }
        parts["snapshots"] = {
            i for s in self.root.snapshots for i in (*s.tree.tree, *s.tree.data)
        } - parts["blobs"]
        return {name: self._stored(sorted(part & fresh)) for name, part in parts.items()}

    def _stored(self, indices: list[int]) -> int:
        return sum(self.root.chunk_stored[i] for i in indices)


def _chunks(root: cache_pb2.Root) -> list[bytes]:
    digests = root.chunk_digests
    return [digests[at : at + 32] for at in range(0, len(digests), 32)]


def _digests(root: cache_pb2.Root) -> frozenset[bytes]:
    return frozenset(_chunks(root))


def newest(store: Path, key: str) -> Published:
    """Read the newest generation of a key from a store's directory. Raises PerfError."""
    return asyncio.run(_newest(store, key))


async def _newest(directory: Path, key: str) -> Published:
    version = await buildkit_version(Path(program("buildkitd")))
    settings = Settings.read({"store": str(directory), "cache_key": key, "root": "/"})
    store = open_store(str(directory))
    try:
        log = GenerationLog(store, cache_keys(settings, version).own)
        generation: Generation | None = await log.newest()
        if generation is None:
            raise PerfError(f"{directory} has no generation of {key}")
        return Published(generation.number, await log.read_root(generation))
    finally:
        await store.close()
