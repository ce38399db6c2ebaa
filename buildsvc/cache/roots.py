"""Roots: one generation whole, as a protobuf message (cache.proto: Root).

Stored as one zstd frame under the BLAKE3 of the serialised message. Like a tree, a root is
not trusted: after ``decode_root`` every index is in range, every chunk lies within its pack,
and the snapshots form a forest.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import zstandard
from google.protobuf.message import DecodeError

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import DIGEST_SIZE, MAX_LENGTH, digest, inflate, split_digests
from buildsvc.cache.packs import MAX_PACK, TRAILER_SIZE
from buildsvc.cache.trees import LIMITS, ValidTree
from buildsvc.cache.wire import Nested, expect_fields
from buildsvc.errors import CorruptObject, UnsupportedFormat

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FORMAT_VERSION = 1
MAX_ROOT = 16 << 20
"""Bytes of a serialised root: some 200,000 chunks, 200 GB of content."""
MAX_STORED = MAX_ROOT + (MAX_ROOT >> 8) + 1024
"""Bytes of a stored root: zstd adds a little to what cannot be compressed."""
MAX_NAME = 1024
"""Characters of a snapshot's name."""
MAX_FIELDS = 1 << 18
"""Fields of a serialised root, those of its snapshots, blobs and packs included; a column is one.
In memory each is 50 to 100 bytes."""
MAX_REFERENCES = 1 << 19
"""Chunks in the lists of all snapshots and blobs: who fetches them has 200 bytes for each."""

_LEVEL = 9  # a root is small, and read before anything else
# Below this many bytes there cannot be so many fields that they matter.
_SMALL = 1 << 20
# Root's fields that are messages, or repeated: packs, snapshots (info with its labels, tree),
# blobs, databases, trace.
_NESTED: Nested = {10: {}, 20: {1: {4: {}}, 2: {}}, 21: {}, 22: {}, 23: {}}
_BLOB_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KINDS = frozenset(
    (
        cache_pb2.SNAPSHOT_KIND_VIEW,
        cache_pb2.SNAPSHOT_KIND_ACTIVE,
        cache_pb2.SNAPSHOT_KIND_COMMITTED,
    )
)


class Location(NamedTuple):
    """Where a chunk is stored. Sizes and offsets in bytes."""

    digest: bytes
    pack: bytes
    """Digest of the pack."""
    offset: int
    stored: int
    length: int
    """Uncompressed."""


class ChunkTable:
    """The chunk table of a valid Root: its columns, fast to look up."""

    def __init__(self, root: cache_pb2.Root) -> None:
        self._packs = [pack.digest for pack in root.packs]
        self._digests = root.chunk_digests
        self._pack = list(root.chunk_packs)
        self._offsets = list(root.chunk_offsets)
        self._stored = list(root.chunk_stored)
        self._lengths = list(root.chunk_lengths)

    def __len__(self) -> int:
        return len(self._pack)

    def __getitem__(self, chunk: int) -> Location:
        return Location(
            self._digests[chunk * DIGEST_SIZE : (chunk + 1) * DIGEST_SIZE],
            self._packs[self._pack[chunk]],
            self._offsets[chunk],
            self._stored[chunk],
            self._lengths[chunk],
        )

    def locate(self, chunks: Iterable[int]) -> list[Location]:
        """The locations of a list of chunks, as it is in a TreeRef or a Blob."""
        return [self[chunk] for chunk in chunks]

    def check_tree(self, ref: cache_pb2.TreeRef, tree: ValidTree) -> None:
        """Checks that ``ref.data`` is the chunk table of the tree. Raises CorruptObject."""
        data = self.locate(ref.data)
        if [chunk.length for chunk in data] != list(tree.chunk_lengths) or (
            b"".join(chunk.digest for chunk in data) != tree.chunk_digests
        ):
            raise CorruptObject("root: a tree's chunks are not those that the tree names")


def root_name(root_digest: bytes) -> str:
    """The store's name of a root."""
    return f"roots/{root_digest.hex()}"


def encode_root(root: cache_pb2.Root) -> tuple[bytes, bytes]:
    """Digest of the serialised root, and its stored form. Raises ValueError when too large."""
    data = root.SerializeToString(deterministic=True)
    if len(data) > MAX_ROOT:
        raise ValueError(f"root: {len(data)} bytes, more than {MAX_ROOT}")
    return digest(data), zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def decode_root(stored: bytes, root_digest: bytes) -> cache_pb2.Root:
    """The valid root whose serialised form has this digest.

    Raises CorruptObject, UnsupportedFormat. Allocates a bounded multiple of ``MAX_ROOT``.
    """
    try:
        length = zstandard.frame_content_size(stored)
    except zstandard.ZstdError as error:
        raise CorruptObject(f"root {root_digest.hex()}: no zstd frame: {error}") from error
    if not 0 < length <= MAX_ROOT:
        raise CorruptObject(f"root {root_digest.hex()}: declares {length} bytes")
    data = inflate(stored, length)
    if digest(data) != root_digest:
        raise CorruptObject(f"root {root_digest.hex()}: the bytes have another digest")
    if length > _SMALL:
        expect_fields(data, _NESTED, MAX_FIELDS)
    try:
        root = cache_pb2.Root.FromString(data)
    except DecodeError as error:
        raise CorruptObject(f"root {root_digest.hex()}: {error}") from error
    validate(root)
    return root


def validate(root: cache_pb2.Root) -> None:
    """Checks everything but the content of trees. Raises CorruptObject, UnsupportedFormat."""
    if root.format_version != FORMAT_VERSION:
        raise UnsupportedFormat(
            "root: unknown format version",
            expected=str(FORMAT_VERSION),
            found=str(root.format_version),
        )
    _check_packs(root)
    _check_references(root)
    lengths = _check_chunks(root)
    snapshots = {snapshot.info.name: snapshot for snapshot in root.snapshots}
    if len(snapshots) != len(root.snapshots):
        raise CorruptObject("root: a snapshot comes twice")
    for name, snapshot in snapshots.items():
        _check_snapshot(name, snapshot, lengths)
    _check_parents(snapshots)
    _check_blobs(root.blobs, lengths)
    if root.HasField("databases"):
        _check_tree_ref("databases", root.databases, lengths)
    seconds = root.cold_build_seconds
    if not math.isfinite(seconds) or seconds < 0:
        raise CorruptObject(f"root: a cold build of {seconds} seconds")


def _check_packs(root: cache_pb2.Root) -> None:
    if len({pack.digest for pack in root.packs}) != len(root.packs):
        raise CorruptObject("root: a pack comes twice")
    for pack in root.packs:
        if len(pack.digest) != DIGEST_SIZE or not TRAILER_SIZE <= pack.size <= MAX_PACK:
            raise CorruptObject(f"root: pack {pack.digest.hex()} of {pack.size} bytes is none")


def _check_references(root: cache_pb2.Root) -> None:
    """Before anything is done for each of them."""
    references = sum(len(blob.data) for blob in root.blobs)
    for tree in (root.databases, *(snapshot.tree for snapshot in root.snapshots)):
        references += len(tree.tree) + len(tree.data)
    if references > MAX_REFERENCES:
        raise CorruptObject(f"root: more than {MAX_REFERENCES} references to chunks")


def _check_chunks(root: cache_pb2.Root) -> list[int]:
    """The lengths of the chunks."""
    digests = split_digests(root.chunk_digests)
    columns = (root.chunk_packs, root.chunk_offsets, root.chunk_stored, root.chunk_lengths)
    if any(len(column) != len(digests) for column in columns):
        raise CorruptObject("root: the columns of its chunk table differ in length")
    ends = [pack.size - TRAILER_SIZE for pack in root.packs]
    lengths = list(root.chunk_lengths)
    rows = zip(root.chunk_packs, root.chunk_offsets, root.chunk_stored, lengths, strict=True)
    for pack, offset, stored, length in rows:
        if not 0 < stored <= length <= MAX_LENGTH:
            raise CorruptObject("root: a chunk's length is out of range")
        if pack >= len(ends) or offset + stored > ends[pack]:
            raise CorruptObject("root: a chunk lies outside its pack")
    if len(set(digests)) != len(digests):
        raise CorruptObject("root: a chunk comes twice")
    return lengths


def _check_snapshot(name: str, snapshot: cache_pb2.Snapshot, lengths: Sequence[int]) -> None:
    kind = snapshot.info.kind
    if not 0 < len(name) <= MAX_NAME or "\0" in name or kind not in _KINDS:
        raise CorruptObject(f"root: snapshot {name[:80]!r}: the name or the kind is none")
    if snapshot.HasField("tree") == (kind == cache_pb2.SNAPSHOT_KIND_VIEW):
        raise CorruptObject(f"root: snapshot {name!r}: a view with a tree, or another without")
    if snapshot.HasField("tree"):
        _check_tree_ref(name, snapshot.tree, lengths)


def _check_parents(snapshots: dict[str, cache_pb2.Snapshot]) -> None:
    """Every parent is there and committed, and every line of parents ends."""
    parents = {name: snapshot.info.parent for name, snapshot in snapshots.items()}
    rooted = {""}
    for name, parent in parents.items():
        if parent and (
            parent not in snapshots
            or snapshots[parent].info.kind != cache_pb2.SNAPSHOT_KIND_COMMITTED
        ):
            raise CorruptObject(f"root: snapshot {name!r}: {parent!r} cannot be its parent")
    for name in parents:
        line: dict[str, None] = {}
        ancestor = name
        while ancestor not in rooted:
            if ancestor in line:
                raise CorruptObject(f"root: snapshot {name!r} descends from itself")
            line[ancestor] = None
            ancestor = parents[ancestor]
        rooted.update(line)


def _check_tree_ref(name: str, ref: cache_pb2.TreeRef, lengths: Sequence[int]) -> None:
    if not ref.tree or _total(name, ref.tree, lengths) > LIMITS.size:
        raise CorruptObject(f"root: {name!r}: its tree is empty or too large")
    _total(name, ref.data, lengths)


def _check_blobs(blobs: Sequence[cache_pb2.Blob], lengths: Sequence[int]) -> None:
    if len({blob.digest for blob in blobs}) != len(blobs):
        raise CorruptObject("root: a blob comes twice")
    for blob in blobs:
        if not _BLOB_DIGEST.fullmatch(blob.digest):
            raise CorruptObject(f"root: blob {blob.digest[:80]!r}: the digest is none")
        if _total(blob.digest, blob.data, lengths) != blob.size:
            raise CorruptObject(f"root: blob {blob.digest}: its chunks are not {blob.size} bytes")


def _total(name: str, chunks: Iterable[int], lengths: Sequence[int]) -> int:
    """Bytes of a list of chunks."""
    try:
        return sum(map(lengths.__getitem__, chunks))
    except IndexError as error:
        raise CorruptObject(f"root: {name!r} has a chunk that is not in the table") from error
