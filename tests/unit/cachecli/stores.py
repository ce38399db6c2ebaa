"""Stores with generations that look like those of a daemon, records and all."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from buildsvc import cli
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.catalog import BlobChunks, Catalog, SnapshotChunks, TreeChunks
from buildsvc.cache.chunks import digest
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.packs import pack_name
from buildsvc.cache.records import METADATA, WORKER
from buildsvc.cache.roots import decode_root, root_name
from buildsvc.cache.signing import SigningKey
from buildsvc.cache.trees import serialise
from buildsvc.store.open import open_store
from tests.unit.cache.boltfiles import records
from tests.unit.cache.fakes import add_pack, info, make_tree, write_pack

KEY = CacheKey("acme", "protected", "app/main", "linux-amd64", "buildkit-0.33")
BRANCH = CacheKey("acme", "protected", "app/branch", "linux-amd64", "buildkit-0.33")
FORK = CacheKey("acme", "forks", "app/main", "linux-amd64", "buildkit-0.33")
OTHER = CacheKey("zeta", "protected", "site", "linux-amd64", "buildkit-0.33")

ACTIVE = cache_pb2.SNAPSHOT_KIND_ACTIVE


@dataclass(frozen=True)
class State:
    """What a daemon has: a file in each layer and cache mount, by BuildKit's names for them."""

    layers: Mapping[str, bytes] = field(default_factory=dict)
    mounts: Mapping[str, bytes] = field(default_factory=dict)
    blobs: Sequence[bytes] = ()
    #: Of layers and mounts; others are called "step NAME".
    descriptions: Mapping[str, str] = field(default_factory=dict)
    #: Instead of what is made from the others.
    database: bytes | None = None

    def records(self) -> bytes:
        if self.database is not None:
            return self.database
        rows = [
            {"id": name, "description": self.descriptions.get(name, f"step {name}")}
            for name in self.layers
        ]
        for name in self.mounts:
            # Two records, as for a cache mount that was used once.
            rows.append({"id": name, "recordType": "exec.cachemount"})
            text = self.descriptions.get(name, f"mount {name}")
            rows.append({"id": f"{name}-of", "snapshot": name, "description": text})
        return records(*rows)


BASE = State(layers={"one": b"first layer" * 50}, mounts={"pip": b"wheels" * 90})


class Made:
    """A store that the test fills and spoils."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.directory = Path(url)

    def publish(
        self,
        state: State = BASE,
        key: CacheKey = KEY,
        *,
        base: cache_pb2.Root | None = None,
        signing: SigningKey | None = None,
    ) -> cache_pb2.Root:
        """The key's next generation, as one pack of what ``base`` does not have."""
        return asyncio.run(self._publish(state, key, base, signing))

    async def _publish(
        self,
        state: State,
        key: CacheKey,
        base: cache_pb2.Root | None,
        signing: SigningKey | None,
    ) -> cache_pb2.Root:
        store = open_store(self.url)
        with tempfile.TemporaryDirectory() as directory:
            root = Rooted(state, base, Path(directory)).root()
            for path in Path(directory).glob("*.pack"):
                await store.put_file(pack_name(bytes.fromhex(path.stem)), path)
        log = GenerationLog(store, key, signing=signing)
        await log.announce()
        await log.publish(root, parent=await log.newest())
        await store.close()
        return root

    def newest(self, key: CacheKey = KEY) -> Generation:
        async def read() -> Generation:
            store = open_store(self.url)
            newest = await GenerationLog(store, key).newest()
            await store.close()
            assert newest is not None
            return newest

        return asyncio.run(read())

    def head(self, number: int, key: CacheKey = KEY) -> Path:
        return self.directory / key.head_name(number)

    def pack(self, root: cache_pb2.Root, number: int = 0) -> Path:
        return self.directory / pack_name(root.packs[number].digest)

    def root(self, key: CacheKey = KEY) -> Path:
        return self.directory / root_name(self.newest(key).head.root)

    def read_root(self, key: CacheKey = KEY) -> cache_pb2.Root:
        return decode_root(self.root(key).read_bytes(), self.newest(key).head.root)

    def count(self, what: str) -> int:
        return sum(path.is_file() for path in (self.directory / what).rglob("*"))


class Rooted:
    """Makes a root, and in a directory the pack of what is new in it."""

    def __init__(self, state: State, base: cache_pb2.Root | None, directory: Path) -> None:
        self._state = state
        self._base = base
        self._directory = directory
        self._contents: dict[bytes, bytes] = {}

    def root(self) -> cache_pb2.Root:
        state = self._state
        snapshots = [
            *self._snapshots(state.layers, cache_pb2.SNAPSHOT_KIND_COMMITTED),
            *self._snapshots(state.mounts, ACTIVE),
        ]
        blobs = [
            BlobChunks(f"sha256:{digest(blob).hex()}", len(blob), 5, self._chunk(blob))
            for blob in state.blobs
        ]
        databases = self._databases()
        catalog = Catalog() if self._base is None else Catalog.from_root(self._base)
        new = [content for name, content in self._contents.items() if name not in catalog]
        if new:
            add_pack(catalog, write_pack(self._directory, new))
        return catalog.build_root(
            snapshots=snapshots,
            blobs=blobs,
            databases=databases,
            trace=None,
            buildkit_version="v0.33.1",
            platform="linux/amd64",
            created_unix_ns=1_700_000_000_000_000_000,
            cold_build_seconds=93.5,
        )

    def _chunk(self, content: bytes) -> bytes:
        self._contents[digest(content)] = content
        return digest(content)

    def _tree(self, tree: cache_pb2.Tree, *contents: bytes) -> TreeChunks:
        for content in contents:
            self._chunk(content)
        return TreeChunks(self._chunk(serialise(tree)), tree.chunk_digests)

    def _snapshots(
        self, contents: Mapping[str, bytes], kind: cache_pb2.SnapshotKind.ValueType
    ) -> list[SnapshotChunks]:
        return [
            SnapshotChunks(
                info(f"buildkit/{number}/{name}", kind=kind),
                self._tree(make_tree([(b"file", content)]), content),
            )
            for number, (name, content) in enumerate(contents.items())
        ]

    def _databases(self) -> TreeChunks:
        content = self._state.records()
        tree = cache_pb2.Tree(chunk_digests=digest(content), chunk_lengths=[len(content)])
        tree.entries.add(mode=0o40755)
        tree.entries.add(path=WORKER.encode(), mode=0o40711)
        entry = tree.entries.add(path=METADATA.encode(), mode=0o100600, size=len(content))
        entry.pieces.add(chunk=0, length=len(content))
        return self._tree(tree, content)


class Console:
    """Runs ``buildsvc cache`` and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.out = self.err = ""

    def run(self, *argv: str) -> int:
        code = cli.main(["cache", *argv])
        self.out, self.err = self._capsys.readouterr()
        return code

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def json(self, *argv: str, code: int = 0) -> Any:
        assert self.run(*argv, "--json") == code, self.err
        return json.loads(self.out)
