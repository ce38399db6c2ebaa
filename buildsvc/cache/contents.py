"""What a generation has in it, as people see it: layers, cache mounts, blobs, packs."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.records import CACHE_MOUNT, Record, own_name
from buildsvc.cache.roots import ChunkTable

Kind = Literal["databases", "layer", "cache mount", "active", "view", "blob"]

_KINDS: Mapping[int, Kind] = {
    cache_pb2.SNAPSHOT_KIND_VIEW: "view",
    cache_pb2.SNAPSHOT_KIND_ACTIVE: "active",
    cache_pb2.SNAPSHOT_KIND_COMMITTED: "layer",
}


@dataclass(frozen=True)
class Item:
    """Something that a daemon has: a snapshot, a blob, its databases. Sizes in bytes."""

    kind: Kind
    name: str
    """A snapshot's, or a blob's digest."""
    parent: str
    description: str
    """What BuildKit says of it, such as the command of a RUN step; empty when that is unknown."""
    size: int
    """Of its content."""
    stored: int
    """Of the chunks of its content and of its tree, in packs; other items may share them."""
    chunks: Sequence[int]
    """The same, as indices into the generation's chunk table; each once."""
    content: bytes
    """The same for two items with equal content, owners and times; no digest."""

    @property
    def own_name(self) -> str:
        """What it is called in each generation that has it."""
        return own_name(self.name)


@dataclass(frozen=True)
class PackUse:
    """A pack, and how many bytes of it the generation needs."""

    digest: bytes
    size: int
    used: int


class Contents:
    """What a valid Root names. ``records`` are those of its databases, as far as they are known."""

    def __init__(self, root: cache_pb2.Root, records: Iterable[Record] = ()) -> None:
        self.root = root
        self.table = ChunkTable(root)
        self._lengths = root.chunk_lengths
        self._stored = root.chunk_stored
        self._mounts: set[str] = set()
        self._descriptions: dict[str, str] = {}
        # A snapshot may have several records: a cache mount has two, one of which says so.
        for record in records:
            if record.kind == CACHE_MOUNT:
                self._mounts.add(record.snapshot)
            for name in (record.snapshot, record.blob):
                if record.description and name:
                    self._descriptions.setdefault(name, record.description)
        self.items = [
            *([self._databases()] if root.HasField("databases") else []),
            *map(self._snapshot, root.snapshots),
            *map(self._blob, root.blobs),
        ]

    @property
    def size(self) -> int:
        """Bytes of all chunks, uncompressed, each once."""
        return sum(self._lengths)

    @property
    def stored(self) -> int:
        """Bytes of all chunks in packs."""
        return sum(self._stored)

    def packs(self) -> list[PackUse]:
        """The packs that it names."""
        used = [0] * len(self.root.packs)
        for pack, stored in zip(self.root.chunk_packs, self._stored, strict=True):
            used[pack] += stored
        return [
            PackUse(pack.digest, pack.size, of_it)
            for pack, of_it in zip(self.root.packs, used, strict=True)
        ]

    def _snapshot(self, snapshot: cache_pb2.Snapshot) -> Item:
        info = snapshot.info
        kind = "cache mount" if own_name(info.name) in self._mounts else _KINDS[info.kind]
        return self._of_tree(kind, info.name, info.parent, snapshot.tree)

    def _databases(self) -> Item:
        return self._of_tree("databases", "databases", "", self.root.databases)

    def _of_tree(self, kind: Kind, name: str, parent: str, tree: cache_pb2.TreeRef) -> Item:
        return self._item(
            kind,
            name,
            parent=parent,
            size=sum(map(self._lengths.__getitem__, tree.data)),
            chunks=[*tree.tree, *tree.data],
            content=b"".join(self.table[chunk].digest for chunk in tree.tree),
        )

    def _blob(self, blob: cache_pb2.Blob) -> Item:
        return self._item(
            "blob",
            blob.digest,
            parent="",
            size=blob.size,
            chunks=blob.data,
            content=blob.digest.encode(),
        )

    def _item(
        self,
        kind: Kind,
        name: str,
        *,
        parent: str,
        size: int,
        chunks: Iterable[int],
        content: bytes,
    ) -> Item:
        distinct = array("I", sorted(set(chunks)))
        return Item(
            kind=kind,
            name=name,
            parent=parent,
            description=self._descriptions.get(own_name(name), ""),
            size=size,
            stored=sum(map(self._stored.__getitem__, distinct)),
            chunks=distinct,
            content=content,
        )
