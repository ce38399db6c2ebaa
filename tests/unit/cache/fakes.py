"""A store in memory, and small valid trees and roots."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks
from buildsvc.cache.catalog import BlobChunks, Catalog, SnapshotChunks, TreeChunks
from buildsvc.cache.packs import FinishedPack, PackWriter
from buildsvc.cache.trees import serialise
from buildsvc.errors import ObjectExists, ObjectNotFound, ShortObject, StoreUnavailable
from buildsvc.store.contract import MAX_GET, ObjectStat
from buildsvc.store.ranges import too_large

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path


class MemoryStore:
    """The contract in a dictionary; each call lets other tasks run first.

    ``lose`` names calls whose answer is lost after they were carried out, ``refuse`` calls
    that fail before. LIST shows ``listed``, when that is set, instead of what is there.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: Counter[str] = Counter()
        self.lose: set[str] = set()
        self.refuse: set[str] = set()
        self.listed: list[str] | None = None
        self.names_listed = 0

    async def _begin(self, call: str) -> None:
        self.calls[call] += 1
        await asyncio.sleep(0)
        if call in self.refuse:
            raise StoreUnavailable(f"{call}: refused by the test")

    def _end(self, call: str) -> None:
        if call in self.lose:
            raise StoreUnavailable(f"{call}: answer lost by the test")

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        await self._begin("get")
        if name not in self.objects:
            raise ObjectNotFound(name)
        if len(self.objects[name]) > limit:
            raise too_large(name, limit)
        return self.objects[name]

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        data = (await self.get(name))[start : start + length]
        if len(data) != length:
            raise ShortObject(name)
        return data

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        return os.pwrite(fd, await self.get_range(name, start, length), at)

    async def put(self, name: str, data: bytes) -> None:
        await self._begin("put")
        self.objects[name] = data
        self._end("put")

    async def put_file(self, name: str, path: Path) -> None:
        await self.put(name, await asyncio.to_thread(path.read_bytes))

    async def create(self, name: str, data: bytes) -> None:
        await self._begin("create")
        if name in self.objects:
            raise ObjectExists(name)
        self.objects[name] = data
        self._end("create")

    async def stat(self, name: str) -> ObjectStat:
        await self._begin("stat")
        if name not in self.objects:
            raise ObjectNotFound(name)
        return ObjectStat(name, len(self.objects[name]), None)

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        await self._begin("list")
        for name in sorted(self.objects) if self.listed is None else self.listed:
            if name.startswith(prefix):
                self.names_listed += 1
                yield ObjectStat(name, 0, None)

    async def delete(self, name: str) -> None:
        self.objects.pop(name, None)

    async def close(self) -> None:
        pass


def make_tree(contents: Sequence[tuple[bytes, bytes]]) -> cache_pb2.Tree:
    """A tree with a file for each name and content, each of which is a chunk of its own."""
    tree = cache_pb2.Tree()
    tree.entries.add(mode=0o40755)
    for number, (name, content) in enumerate(contents):
        tree.chunk_digests += chunks.digest(content)
        tree.chunk_lengths.append(len(content))
        entry = tree.entries.add(path=name, mode=0o100644, size=len(content))
        entry.pieces.add(chunk=number, length=len(content))
    return tree


def add_pack(catalog: Catalog, pack: FinishedPack) -> None:
    catalog.add_pack(
        pack.digest,
        pack.size,
        chunk_digests=pack.chunk_digests,
        chunk_offsets=pack.chunk_offsets,
        chunk_stored=pack.chunk_stored,
        chunk_lengths=pack.chunk_lengths,
    )


def write_pack(directory: Path, contents: Sequence[bytes]) -> FinishedPack:
    writer = PackWriter(directory, target=1 << 30)
    for content in contents:
        assert writer.add(chunks.digest(content), chunks.encode(content), len(content)) is None
    pack = writer.finish()
    assert pack is not None
    return pack


def make_catalog(directory: Path, contents: Sequence[bytes]) -> Catalog:
    catalog = Catalog()
    add_pack(catalog, write_pack(directory, contents))
    return catalog


def info(
    name: str,
    parent: str = "",
    kind: cache_pb2.SnapshotKind.ValueType = cache_pb2.SNAPSHOT_KIND_COMMITTED,
) -> cache_pb2.SnapshotInfo:
    return cache_pb2.SnapshotInfo(
        name=name, parent=parent, kind=kind, labels={"b": "2", "a": name}, usage_bytes=7
    )


def make_root(directory: Path, *, marker: bytes = b"") -> cache_pb2.Root:
    """A root with two layers, a view, a blob and databases."""
    tree = make_tree([(b"bin", b"program" * 100 + marker), (b"etc", b"settings" * 100)])
    databases = make_tree([(b"cache.db", b"database" * 200)])
    blob = b"layer" * 300
    plain = [b"program" * 100 + marker, b"settings" * 100, b"database" * 200, blob]
    stored = [serialise(tree), serialise(databases)]
    catalog = make_catalog(directory, [*plain, *stored])
    captured = TreeChunks(chunks.digest(stored[0]), tree.chunk_digests)
    return catalog.build_root(
        snapshots=[
            SnapshotChunks(info("buildkit/2/upper", "buildkit/1/lower"), captured),
            SnapshotChunks(info("buildkit/1/lower"), captured),
            SnapshotChunks(
                info("buildkit/3/view", "buildkit/2/upper", cache_pb2.SNAPSHOT_KIND_VIEW), None
            ),
        ],
        blobs=[BlobChunks("sha256:" + "ab" * 32, len(blob), 5, chunks.digest(blob))],
        databases=TreeChunks(chunks.digest(stored[1]), databases.chunk_digests),
        trace=cache_pb2.Trace(cold=True, used=["buildkit/2/upper"]),
        buildkit_version="v0.33.1",
        platform="linux/amd64",
        created_unix_ns=1_700_000_000_000_000_000,
        cold_build_seconds=93.5,
    )
