"""The catalog: where every chunk is that a sidecar knows to be in the store.

It begins with the chunks of the generation that was restored, grows with each pack that was
uploaded, and makes the Root of the next generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import split_digests
from buildsvc.cache.roots import FORMAT_VERSION, ChunkTable, Location, validate
from buildsvc.errors import CorruptObject

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


@dataclass(frozen=True)
class TreeChunks:
    """A captured tree: digests of its serialised form and of its content, concatenated."""

    tree: bytes
    data: bytes


@dataclass(frozen=True)
class SnapshotChunks:
    """A snapshot of the next generation; ``chunks`` is None for a view."""

    info: cache_pb2.SnapshotInfo
    chunks: TreeChunks | None


@dataclass(frozen=True)
class BlobChunks:
    """A blob of the next generation: "sha256:<hex>", bytes, st_mtime_ns, digests concatenated."""

    digest: str
    size: int
    mtime_ns: int
    data: bytes


class Catalog:
    """Chunks by digest. The first place that is known of a chunk is kept."""

    def __init__(self) -> None:
        self._locations: dict[bytes, Location] = {}
        # Where chunks were that no pack is known to have any more.
        self._lost: dict[bytes, Location] = {}
        self._pack_sizes: dict[bytes, int] = {}
        # The newest collection that cannot have condemned a pack.
        self._collections: dict[bytes, int] = {}

    @classmethod
    def from_root(cls, root: cache_pb2.Root, collection: int = 0) -> Catalog:
        """The catalog of a valid Root, whose head says that it knows of ``collection``."""
        catalog = cls()
        catalog._pack_sizes = {pack.digest: pack.size for pack in root.packs}
        catalog.vouch((pack.digest for pack in root.packs), collection)
        table = ChunkTable(root)
        catalog._locations = {(at := table[n]).digest: at for n in range(len(table))}
        return catalog

    def __len__(self) -> int:
        return len(self._locations)

    def __contains__(self, chunk_digest: bytes) -> bool:
        return chunk_digest in self._locations

    def locate(self, chunk_digest: bytes) -> Location:
        """Where a chunk is, or was: what nobody has cannot be stored again, and is named as it was.

        Raises CorruptObject when no pack is known to have or have had it.
        """
        location = self._locations.get(chunk_digest) or self._lost.get(chunk_digest)
        if location is None:
            raise CorruptObject(f"chunk {chunk_digest.hex()} is in no pack that is known")
        return location

    def add_pack(
        self,
        digest: bytes,
        size: int,
        *,
        chunk_digests: bytes,
        chunk_offsets: Sequence[int],
        chunk_stored: Sequence[int],
        chunk_lengths: Sequence[int],
        collection: int = 0,
    ) -> None:
        """Adds a pack that is in the store; the columns are those of PackFile.

        ``collection`` is the newest one that was known before its upload began.
        """
        self._pack_sizes[digest] = size
        self._collections.setdefault(digest, collection)
        rows = zip(
            split_digests(chunk_digests), chunk_offsets, chunk_stored, chunk_lengths, strict=True
        )
        for chunk, offset, stored, length in rows:
            self._locations.setdefault(chunk, Location(chunk, digest, offset, stored, length))

    def vouch(self, digests: Iterable[bytes], collection: int) -> None:
        """Takes it as known that no collection up to this one has condemned these packs."""
        for digest in digests:
            self._collections[digest] = max(self._collections.get(digest, 0), collection)

    def unsafe_packs(self, root: cache_pb2.Root, collection: int) -> frozenset[bytes]:
        """Packs that the root names and this or an earlier collection may have condemned."""
        named = (pack.digest for pack in root.packs)
        return frozenset(pack for pack in named if self._collections.get(pack, 0) < collection)

    def drop_packs(self, digests: Collection[bytes]) -> list[bytes]:
        """Takes packs as lost or corrupt; the chunks that are in no other one, as far as known."""
        lost = [chunk for chunk, at in self._locations.items() if at.pack in digests]
        for chunk in lost:
            self._lost[chunk] = self._locations.pop(chunk)
        return lost

    def build_root(
        self,
        *,
        snapshots: Iterable[SnapshotChunks],
        blobs: Iterable[BlobChunks],
        databases: TreeChunks | None,
        trace: cache_pb2.Trace | None,
        buildkit_version: str,
        platform: str,
        created_unix_ns: int,
        cold_build_seconds: float = 0.0,
        collection: int = 0,
    ) -> cache_pb2.Root:
        """The valid Root of the next generation, with the chunks and packs that it refers to.

        The same content gives the same Root, in whatever order it comes. Raises CorruptObject
        when a chunk is in no known pack or the Root would not be valid.
        """
        snapshots = sorted(snapshots, key=lambda snapshot: snapshot.info.name)
        blobs = sorted(blobs, key=lambda blob: blob.digest)
        trees = [snapshot.chunks for snapshot in snapshots if snapshot.chunks is not None]
        if databases is not None:
            trees.append(databases)
        columns = [column for tree in trees for column in (tree.tree, tree.data)]
        columns += [blob.data for blob in blobs]
        used = {chunk for column in columns for chunk in split_digests(column)}

        root = cache_pb2.Root(
            format_version=FORMAT_VERSION,
            buildkit_version=buildkit_version,
            platform=platform,
            created_unix_ns=created_unix_ns,
            trace=trace,
            cold_build_seconds=cold_build_seconds,
            collection=collection,
        )
        numbers = self._fill_table(root, used)

        def indices(column: bytes) -> list[int]:
            return [numbers[chunk] for chunk in split_digests(column)]

        def reference(tree: TreeChunks) -> cache_pb2.TreeRef:
            return cache_pb2.TreeRef(tree=indices(tree.tree), data=indices(tree.data))

        for snapshot in snapshots:
            tree = reference(snapshot.chunks) if snapshot.chunks is not None else None
            root.snapshots.add(info=snapshot.info, tree=tree)
        for blob in blobs:
            root.blobs.add(
                digest=blob.digest, size=blob.size, mtime_ns=blob.mtime_ns, data=indices(blob.data)
            )
        if databases is not None:
            root.databases.CopyFrom(reference(databases))
        validate(root)
        return root

    def _fill_table(self, root: cache_pb2.Root, used: Iterable[bytes]) -> dict[bytes, int]:
        """Writes packs and chunk table, in the order of the bytes; the index of each chunk."""
        locations = sorted(map(self.locate, used), key=lambda at: (at.pack, at.offset))
        packs: dict[bytes, int] = {}
        for location in locations:
            packs.setdefault(location.pack, len(packs))
        for digest in packs:
            root.packs.add(digest=digest, size=self._pack_sizes[digest])
        root.chunk_digests = b"".join(at.digest for at in locations)
        root.chunk_packs.extend(packs[at.pack] for at in locations)
        root.chunk_offsets.extend(at.offset for at in locations)
        root.chunk_stored.extend(at.stored for at in locations)
        root.chunk_lengths.extend(at.length for at in locations)
        return {at.digest: number for number, at in enumerate(locations)}
