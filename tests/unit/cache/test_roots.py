"""Roots come back exactly; the catalog builds them; hostile ones are refused."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks, roots, trees
from buildsvc.cache.catalog import BlobChunks, Catalog, SnapshotChunks, TreeChunks
from buildsvc.cache.trees import LIMITS, serialise
from buildsvc.errors import CorruptObject, UnsupportedFormat
from tests.unit.cache.fakes import add_pack, info, make_catalog, make_root, make_tree, write_pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path) -> cache_pb2.Root:
    return make_root(tmp_path)


def test_round_trip(root: cache_pb2.Root) -> None:
    name, stored = roots.encode_root(root)
    assert roots.decode_root(stored, name) == root
    assert roots.encode_root(roots.decode_root(stored, name)) == (name, stored)
    assert roots.root_name(name) == f"roots/{name.hex()}"


def test_truncated_at_every_byte_and_flipped_at_every_bit(root: cache_pb2.Root) -> None:
    name, stored = roots.encode_root(root)
    for end in range(len(stored)):
        with pytest.raises(CorruptObject):
            roots.decode_root(stored[:end], name)
    for bit in range(8 * len(stored)):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert roots.decode_root(bytes(flipped), name) == root
        except CorruptObject:
            continue
        assert bit < 8 * 16, "a bit of content was ignored"


def test_flipped_bits_of_the_message_are_corrupt_or_valid(root: cache_pb2.Root) -> None:
    data = root.SerializeToString(deterministic=True)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        stored = zstandard.ZstdCompressor().compress(bytes(flipped))
        try:
            found = roots.decode_root(stored, chunks.digest(flipped))
        except (CorruptObject, UnsupportedFormat):
            continue
        table = roots.ChunkTable(found)
        for ref in [found.databases, *(snapshot.tree for snapshot in found.snapshots)]:
            table.locate([*ref.tree, *ref.data])


@given(st.binary(max_size=100))
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises((CorruptObject, UnsupportedFormat)):
        roots.decode_root(data, chunks.digest(data))
    stored = zstandard.ZstdCompressor().compress(data)
    with pytest.raises((CorruptObject, UnsupportedFormat)):
        roots.decode_root(stored, chunks.digest(data))


def test_a_bomb_is_refused_by_its_declaration() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(roots.MAX_ROOT + 1))
    with pytest.raises(CorruptObject, match="declares"):
        roots.decode_root(bomb, bytes(32))


def test_too_large_to_encode(root: cache_pb2.Root) -> None:
    root.trace.used.append("x" * roots.MAX_ROOT)
    with pytest.raises(ValueError, match="more than"):
        roots.encode_root(root)


def test_the_table_leads_to_the_bytes(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    table = roots.ChunkTable(root)
    (blob,) = root.blobs
    read = []
    for at in table.locate(blob.data):
        pack = (tmp_path / f"{at.pack.hex()}.pack").read_bytes()
        read.append(chunks.decode(pack[at.offset : at.offset + at.stored], at.length, at.digest))
    assert b"".join(read) == b"layer" * 300
    assert len(table) == len(root.chunk_lengths) == 6


@pytest.mark.parametrize(
    "field",
    [
        b"\x52\x00",  # a pack
        b"\xa2\x01\x06\x0a\x04\x22\x02\x0a\x00",  # a snapshot with a label
        b"\xba\x01\x02\x12\x00",  # a trace with a name
    ],
)
def test_small_messages_in_large_numbers_are_refused(field: bytes) -> None:
    data = b"\x08\x01" + field * (roots.MAX_ROOT // 2 // len(field))
    stored = zstandard.ZstdCompressor(level=1).compress(data)
    with pytest.raises(CorruptObject, match="too many fields"):
        roots.decode_root(stored, chunks.digest(data))


def test_a_large_root_is_read_again(root: cache_pb2.Root) -> None:
    """Its fields are counted, and names are no messages."""
    root.trace.used.extend([root.snapshots[UPPER].info.name] * 100_000)
    assert root.ByteSize() > 1 << 20
    name, stored = roots.encode_root(root)
    assert roots.decode_root(stored, name) == root


def test_a_tree_and_its_reference_agree(root: cache_pb2.Root) -> None:
    def valid(tree: cache_pb2.Tree) -> trees.ValidTree:
        return trees.parse(trees.serialise(tree))

    table = roots.ChunkTable(root)
    right = make_tree([(b"cache.db", b"database" * 200)])
    table.check_tree(root.databases, valid(right))
    for wrong in (
        make_tree([]),
        make_tree([(b"cache.db", b"x" * 1600)]),
        make_tree([(b"cache.db", b"database" * 200), (b"more", b"database" * 200)]),
    ):
        with pytest.raises(CorruptObject, match="tree's chunks"):
            table.check_tree(root.databases, valid(wrong))
    right.chunk_lengths[0] += 1
    with pytest.raises(CorruptObject, match="tree's chunks"):
        table.check_tree(root.databases, valid(right))


def set_item(field: str, index: int, value: int) -> Callable[[cache_pb2.Root], object]:
    return lambda root: getattr(root, field).__setitem__(index, value)


def drop_item(field: str) -> Callable[[cache_pb2.Root], object]:
    return lambda root: getattr(root, field).pop()


def snapshot(number: int, **values: object) -> Callable[[cache_pb2.Root], object]:
    merged = cache_pb2.SnapshotInfo(**values)  # type: ignore[arg-type]
    return lambda root: root.snapshots[number].info.MergeFrom(merged)


def repeat(field: str) -> Callable[[cache_pb2.Root], object]:
    return lambda root: getattr(root, field).append(getattr(root, field)[0])


def make_cycle(root: cache_pb2.Root) -> None:
    root.snapshots[0].info.parent = "buildkit/2/upper"


LOWER, UPPER, VIEW = 0, 1, 2
HOSTILE: list[tuple[str, Callable[[cache_pb2.Root], object], str]] = [
    ("pack twice", repeat("packs"), "pack comes twice"),
    ("pack digest", lambda root: setattr(root.packs[0], "digest", b"x"), "is none"),
    ("pack too small", lambda root: setattr(root.packs[0], "size", 55), "is none"),
    ("pack too large", lambda root: setattr(root.packs[0], "size", 1 << 40), "is none"),
    ("pack too short", lambda root: setattr(root.packs[0], "size", 100), "outside its pack"),
    ("half a digest", lambda root: setattr(root, "chunk_digests", b"x"), "whole number"),
    ("few digests", lambda root: setattr(root, "chunk_digests", bytes(32)), "columns"),
    (
        "same digests",
        lambda root: setattr(root, "chunk_digests", bytes(32 * 6)),
        "chunk comes twice",
    ),
    ("few packs", drop_item("chunk_packs"), "columns"),
    ("few offsets", drop_item("chunk_offsets"), "columns"),
    ("few stored", drop_item("chunk_stored"), "columns"),
    ("few lengths", drop_item("chunk_lengths"), "columns"),
    ("pack index", set_item("chunk_packs", 0, 1), "outside its pack"),
    ("offset", set_item("chunk_offsets", 0, 2**64 - 1), "outside its pack"),
    ("stored nothing", set_item("chunk_stored", 0, 0), "length is out of range"),
    ("length zero", set_item("chunk_lengths", 0, 0), "length is out of range"),
    ("stored more", set_item("chunk_stored", 0, chunks.MAX_LENGTH), "length is out of range"),
    ("length", set_item("chunk_lengths", 0, chunks.MAX_LENGTH + 1), "length is out of range"),
    ("snapshot twice", repeat("snapshots"), "snapshot comes twice"),
    ("no name", lambda root: root.snapshots[VIEW].info.ClearField("name"), "name or the kind"),
    ("long name", snapshot(VIEW, name="x" * 1025), "name or the kind"),
    ("NUL in name", snapshot(VIEW, name="x\0"), "name or the kind"),
    ("no kind", lambda root: root.snapshots[VIEW].info.ClearField("kind"), "name or the kind"),
    (
        "unknown kind",
        lambda root: root.snapshots[VIEW].info.MergeFromString(b"\x18\x09"),
        "name or the kind",
    ),
    ("view with tree", snapshot(UPPER, kind=cache_pb2.SNAPSHOT_KIND_VIEW), "view with a tree"),
    ("no tree", lambda root: root.snapshots[UPPER].ClearField("tree"), "another without"),
    ("empty tree", lambda root: root.snapshots[UPPER].tree.ClearField("tree"), "tree is empty"),
    (
        "tree too large",
        lambda root: root.snapshots[UPPER].tree.tree.extend([0] * (LIMITS.size // 600)),
        "too large",
    ),
    ("tree chunk", lambda root: root.snapshots[UPPER].tree.tree.append(6), "not in the table"),
    ("data chunk", lambda root: root.snapshots[UPPER].tree.data.append(6), "not in the table"),
    (
        "too many references",
        lambda root: root.databases.data.extend([0] * roots.MAX_REFERENCES),
        "references to chunks",
    ),
    ("database chunk", lambda root: root.databases.data.append(2**32 - 1), "not in the table"),
    ("unknown parent", snapshot(UPPER, parent="other"), "cannot be its parent"),
    ("parent is a view", snapshot(UPPER, parent="buildkit/3/view"), "cannot be its parent"),
    ("own parent", snapshot(UPPER, parent="buildkit/2/upper"), "descends from itself"),
    ("cycle", make_cycle, "descends from itself"),
    ("blob twice", repeat("blobs"), "blob comes twice"),
    ("blob digest", lambda root: setattr(root.blobs[0], "digest", "sha256:../x"), "digest is none"),
    ("blob size", lambda root: setattr(root.blobs[0], "size", 1), "are not 1 bytes"),
    ("blob chunk", lambda root: root.blobs[0].data.append(6), "not in the table"),
    ("seconds", lambda root: setattr(root, "cold_build_seconds", math.nan), "cold build"),
    ("less seconds", lambda root: setattr(root, "cold_build_seconds", -1.0), "cold build"),
]


@pytest.mark.parametrize(
    ("change", "message"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_hostile(
    root: cache_pb2.Root, change: Callable[[cache_pb2.Root], object], message: str
) -> None:
    change(root)
    name, stored = roots.encode_root(root)
    with pytest.raises(CorruptObject, match=message):
        roots.decode_root(stored, name)


@pytest.mark.parametrize("version", [0, 2])
def test_another_version(root: cache_pb2.Root, version: int) -> None:
    root.format_version = version
    name, stored = roots.encode_root(root)
    with pytest.raises(UnsupportedFormat, match=f"found: {version}"):
        roots.decode_root(stored, name)


def test_a_long_line_of_parents_is_checked_without_recursion(tmp_path: Path) -> None:
    content = serialise(make_tree([]))
    catalog = make_catalog(tmp_path, [content])
    tree = TreeChunks(chunks.digest(content), b"")
    line = [
        SnapshotChunks(info(f"{number:05}", f"{number - 1:05}" if number else ""), tree)
        for number in range(5000)
    ]
    random.Random(1).shuffle(line)
    root = build(catalog, snapshots=line)
    assert [snapshot.info.name for snapshot in root.snapshots][:2] == ["00000", "00001"]


def build(
    catalog: Catalog,
    *,
    snapshots: list[SnapshotChunks] | None = None,
    blobs: list[BlobChunks] | None = None,
) -> cache_pb2.Root:
    return catalog.build_root(
        snapshots=snapshots or [],
        blobs=blobs or [],
        databases=None,
        trace=None,
        buildkit_version="v0.33.1",
        platform="linux/amd64",
        created_unix_ns=1,
    )


def blob(number: int, contents: list[bytes]) -> BlobChunks:
    size = sum(map(len, contents))
    return BlobChunks(f"sha256:{number:064x}", size, 0, b"".join(map(chunks.digest, contents)))


def test_only_what_is_referred_to_is_emitted(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, [b"old one", b"old two", b"old three"])
    add_pack(catalog, write_pack(tmp_path, [b"unused"]))
    new = write_pack(tmp_path, [b"new", b"unused too", b"newer"])
    add_pack(catalog, new)
    used = [b"old two", b"newer", b"old one", b"new", b"old two"]
    root = build(catalog, blobs=[blob(1, used)])
    assert len(root.packs) == 2
    assert {pack.digest for pack in root.packs} >= {new.digest}
    table = roots.ChunkTable(root)
    assert [(at.pack, at.offset) for at in table.locate(range(len(table)))] == sorted(
        (at.pack, at.offset) for at in table.locate(range(len(table)))
    )
    assert {table[n].digest for n in range(len(table))} == set(map(chunks.digest, used))


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_the_order_of_what_comes_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: random.Random
) -> None:
    directory = tmp_path_factory.mktemp("packs")
    contents = [b"content %d" % number for number in range(12)]
    packs = [write_pack(directory, contents[at : at + 3]) for at in range(0, 12, 3)]
    blobs = [blob(number, [contents[number], contents[-number]]) for number in range(12)]

    def once() -> bytes:
        order.shuffle(packs)
        order.shuffle(blobs)
        catalog = Catalog()
        for pack in packs:
            add_pack(catalog, pack)
        return roots.encode_root(build(catalog, blobs=blobs))[0]

    assert once() == once()


def test_a_catalog_of_a_root_builds_it_again(tmp_path: Path) -> None:
    root = make_root(tmp_path)
    catalog = Catalog.from_root(root)
    assert len(catalog) == len(root.chunk_lengths)
    assert all(digest in catalog for digest in chunks.split_digests(root.chunk_digests))
    table = roots.ChunkTable(root)

    def names(indices: list[int]) -> bytes:
        return b"".join(at.digest for at in table.locate(indices))

    def tree(ref: cache_pb2.TreeRef) -> TreeChunks:
        return TreeChunks(names(list(ref.tree)), names(list(ref.data)))

    again = catalog.build_root(
        snapshots=[
            SnapshotChunks(one.info, tree(one.tree) if one.HasField("tree") else None)
            for one in root.snapshots
        ],
        blobs=[
            BlobChunks(one.digest, one.size, one.mtime_ns, names(list(one.data)))
            for one in root.blobs
        ],
        databases=tree(root.databases),
        trace=root.trace,
        buildkit_version=root.buildkit_version,
        platform=root.platform,
        created_unix_ns=root.created_unix_ns,
        cold_build_seconds=root.cold_build_seconds,
    )
    assert again == root


def test_what_is_missing(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, [b"here"])
    here, gone = chunks.digest(b"here"), chunks.digest(b"gone")
    assert here in catalog
    assert gone not in catalog
    assert catalog.locate(here).length == 4
    with pytest.raises(CorruptObject, match="no pack"):
        catalog.locate(gone)
    with pytest.raises(CorruptObject, match="no pack"):
        build(catalog, blobs=[blob(1, [b"gone"])])


def test_the_first_place_is_kept_and_a_dropped_pack_forgotten(tmp_path: Path) -> None:
    first, second = write_pack(tmp_path, [b"a", b"b"]), write_pack(tmp_path, [b"b", b"c"])
    catalog = Catalog()
    add_pack(catalog, first)
    add_pack(catalog, second)
    assert catalog.locate(chunks.digest(b"b")).pack == first.digest
    lost = [chunks.digest(b"a"), chunks.digest(b"b")]
    assert catalog.drop_packs({first.digest}) == lost
    assert catalog.drop_packs({first.digest}) == []
    # What nobody can store again is named where it was.
    assert catalog.locate(lost[0]).pack == first.digest
    assert [one for one in (b"a", b"b", b"c") if chunks.digest(one) in catalog] == [b"c"]
    add_pack(catalog, second)
    assert catalog.locate(chunks.digest(b"b")).pack == second.digest


def test_an_invalid_generation_is_not_built(tmp_path: Path) -> None:
    catalog = make_catalog(tmp_path, [b"x"])
    with pytest.raises(CorruptObject, match="cannot be its parent"):
        build(
            catalog,
            snapshots=[SnapshotChunks(info("a", "missing"), TreeChunks(chunks.digest(b"x"), b""))],
        )
