"""Trees come back exactly; hostile ones are refused."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks, trees
from buildsvc.errors import CorruptObject

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
DIR, FILE, LINK, DEVICE = 0o40755, 0o104755, 0o120777, 0o20000


@st.composite
def valid_trees(draw: st.DrawFn) -> cache_pb2.Tree:
    tree = cache_pb2.Tree()
    table = draw(st.lists(st.integers(1, chunks.MAX_LENGTH), min_size=1, max_size=4))
    tree.chunk_lengths.extend(table)
    tree.chunk_digests = b"".join(chunks.digest(b"%d" % number) for number in range(len(table)))
    tree.entries.add(mode=DIR)
    files: list[int] = []

    def fill(prefix: bytes, depth: int) -> None:
        for name in draw(st.lists(NAMES, max_size=4, unique=True)):
            number = len(tree.entries)
            entry = tree.entries.add(
                path=prefix + name,
                uid=draw(st.integers(0, 65535)),
                gid=draw(st.integers(0, 65535)),
                mtime_ns=draw(st.integers(-(2**63), 2**63 - 1)),
            )
            for xattr in draw(st.sets(NAMES, max_size=2)):
                entry.xattrs.add(name=xattr, value=draw(st.binary(max_size=8)))
            kind = draw(st.sampled_from(["dir", "file", "link", "device", "fifo", "hardlink"]))
            if kind == "dir" and depth:
                entry.mode = stat.S_IFDIR | draw(st.integers(0, 0o7777))
                fill(entry.path + b"/", depth - 1)
            elif kind == "link":
                entry.mode = LINK
                entry.symlink = draw(NAMES)
            elif kind == "device":
                entry.mode = DEVICE
                entry.rdev = draw(st.integers(0, 2**64 - 1))
            elif kind == "fifo":
                entry.mode = stat.S_IFIFO
            elif kind == "hardlink" and files:
                entry.mode = FILE
                entry.hardlink = draw(st.sampled_from(files)) + 1
            else:
                entry.mode = FILE
                files.append(number)
                at = 0
                for chunk in draw(st.lists(st.integers(0, len(table) - 1), max_size=3)):
                    at += draw(st.integers(0, 100))
                    start = draw(st.integers(0, table[chunk] - 1))
                    length = draw(st.integers(1, table[chunk] - start))
                    entry.pieces.add(chunk=chunk, chunk_offset=start, length=length, file_offset=at)
                    at += length
                entry.size = at + draw(st.integers(0, 100))

    fill(b"", 3)
    return tree


@settings(max_examples=60)
@given(valid_trees())
def test_round_trip(tree: cache_pb2.Tree) -> None:
    data = trees.serialise(tree)
    parsed = trees.parse(data)
    assert list(parsed.entries) == list(tree.entries)
    assert [parsed.entries[n] for n in range(len(parsed.entries))] == list(tree.entries)
    assert parsed.chunk_digests == tree.chunk_digests
    assert list(parsed.chunk_lengths) == list(tree.chunk_lengths)


@given(st.binary(max_size=200))
def test_anything_else_is_corrupt(data: bytes) -> None:
    try:
        tree = trees.parse(data)
    except CorruptObject:
        return
    assert tree.entries[0].path == b""


def sample() -> cache_pb2.Tree:
    """Root, a, a/b, a/b/file, a/link, c (a file that is a hard link to a/b/file)."""
    tree = cache_pb2.Tree(chunk_digests=chunks.digest(b"x"), chunk_lengths=[100])
    tree.entries.add(mode=DIR)
    tree.entries.add(path=b"a", mode=DIR)
    tree.entries.add(path=b"a/b", mode=DIR)
    file = tree.entries.add(path=b"a/b/file", mode=FILE, size=150)
    file.pieces.add(chunk=0, length=60)
    file.pieces.add(chunk=0, chunk_offset=10, length=90, file_offset=60)
    file.xattrs.add(name=b"security.capability", value=b"\1")
    tree.entries.add(path=b"a/link", mode=LINK, symlink=b"/etc/passwd")
    tree.entries.add(path=b"c", mode=FILE, hardlink=4)
    tree.entries.add(path=b"d", mode=DEVICE, rdev=0)
    return tree


def test_the_sample_is_valid() -> None:
    trees.parse(trees.serialise(sample()))


def test_truncated_and_flipped_trees_are_valid_or_corrupt() -> None:
    data = trees.serialise(sample())
    for end in range(len(data)):
        cut = data[:end]
        try:
            trees.parse(cut)
        except CorruptObject:
            continue
        # Protobuf has no end mark: a cut between two entries is a smaller tree, which the
        # digests of its chunks tell from the right one.
        assert chunks.digest(cut) != chunks.digest(data)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            tree = trees.parse(bytes(flipped))
        except CorruptObject:
            continue
        assert all(b".." not in entry.path.split(b"/") for entry in tree.entries)


FOLLOW = "does not follow its parent"
MALFORMED = "path is malformed"


def path_of(number: int, path: bytes) -> Callable[[cache_pb2.Tree], object]:
    return lambda tree: setattr(tree.entries[number], "path", path)


def entry(number: int, **values: object) -> Callable[[cache_pb2.Tree], object]:
    return lambda tree: tree.entries[number].MergeFrom(cache_pb2.Entry(**values))  # type: ignore[arg-type]


def piece(**values: int) -> Callable[[cache_pb2.Tree], object]:
    return lambda tree: tree.entries[3].pieces[1].MergeFrom(cache_pb2.Piece(**values))


def xattr(name: bytes, value: bytes = b"") -> Callable[[cache_pb2.Tree], object]:
    return lambda tree: tree.entries[3].xattrs.add(name=name, value=value)


HOSTILE: list[tuple[str, Callable[[cache_pb2.Tree], object], str]] = [
    ("no entries", lambda tree: tree.ClearField("entries"), "no root"),
    ("no root", lambda tree: tree.entries.pop(0), "not the root directory"),
    ("root is a file", entry(0, mode=0o100000), "not the root directory"),
    ("root again", path_of(5, b""), MALFORMED),
    ("absolute", path_of(5, b"/c"), "absolute"),
    ("absolute and deeper", path_of(3, b"/a/b/file"), FOLLOW),
    ("parent", path_of(5, b".."), MALFORMED),
    ("parent inside", path_of(3, b"a/b/.."), MALFORMED),
    ("through parent", path_of(3, b"a/../x"), FOLLOW),
    ("dot", path_of(5, b"."), MALFORMED),
    ("dot inside", path_of(3, b"a/./file"), FOLLOW),
    ("double slash", path_of(3, b"a//file"), FOLLOW),
    ("trailing slash", path_of(3, b"a/b/"), MALFORMED),
    ("NUL", path_of(5, b"c\0"), MALFORMED),
    ("long name", path_of(5, b"c" * 256), MALFORMED),
    ("long path", path_of(5, b"c/" * (trees.LIMITS.path // 2 + 1)), "too long"),
    ("no parent", path_of(5, b"missing/c"), FOLLOW),
    ("parent is a file", path_of(4, b"a/b/file/link"), FOLLOW),
    ("parent is a symbolic link", path_of(5, b"a/link/c"), FOLLOW),
    ("parent comes later", lambda tree: tree.entries.insert(1, tree.entries.pop(2)), FOLLOW),
    ("parent was left before", path_of(6, b"a/b/d"), FOLLOW),
    ("twice", path_of(5, b"a"), "comes twice"),
    ("twice at once", path_of(6, b"c"), "comes twice"),
    ("no type", lambda tree: setattr(tree.entries[5], "mode", 0o644), "mode 644"),
    ("mode too large", lambda tree: setattr(tree.entries[5], "mode", 1 << 31 | FILE), "mode"),
    ("uid -1", entry(5, uid=2**32 - 1), "owner"),
    ("gid -1", entry(5, gid=2**32 - 1), "owner"),
    ("directory with size", entry(1, size=1), "content without"),
    ("link with size", entry(4, size=11), "content without"),
    ("directory as hard link", entry(2, hardlink=4), "content without"),
    ("hard link to itself", entry(5, hardlink=6), "hard link to what"),
    ("hard link to later", entry(3, hardlink=6), "hard link to what"),
    ("hard link far away", entry(5, hardlink=2**32 - 1), "hard link to what"),
    ("hard link to a directory", entry(5, hardlink=2), "hard link to what"),
    ("hard link to a symbolic link", entry(5, hardlink=5), "hard link to what"),
    (
        "hard link to a hard link",
        lambda tree: tree.entries.add(path=b"e", mode=FILE, hardlink=6),
        "hard link to what",
    ),
    ("hard link with pieces", entry(5, pieces=[cache_pb2.Piece(length=1)]), "with content"),
    ("target on a file", entry(3, symlink=b"x"), "without a symbolic link"),
    ("no target", lambda tree: tree.entries[4].ClearField("symlink"), "target is malformed"),
    ("NUL in target", entry(4, symlink=b"x\0"), "target is malformed"),
    ("long target", entry(4, symlink=b"x" * 4096), "target is malformed"),
    ("device number on a file", entry(3, rdev=1), "without a device"),
    ("xattr twice", xattr(b"security.capability"), "twice"),
    ("xattr without name", xattr(b""), "name is malformed"),
    ("NUL in xattr", xattr(b"user.\0"), "name is malformed"),
    ("long xattr name", xattr(b"u" * 256), "name is malformed"),
    ("long xattr value", xattr(b"user.a", bytes(65537)), "too long"),
    ("larger than a file system holds", entry(3, size=trees.MAX_FILE + 1), "size is out of range"),
    ("size beyond 64 bits", entry(3, size=2**64 - 1), "size is out of range"),
    ("hard link with size", entry(5, size=1), "with content"),
    ("chunk out of range", piece(chunk=1), "in no chunk"),
    ("beyond its chunk", piece(length=91), "in no chunk"),
    ("offset beyond its chunk", piece(chunk_offset=2**32 - 1), "in no chunk"),
    ("empty piece", lambda tree: tree.entries[3].pieces[1].ClearField("length"), "empty"),
    ("overlap", piece(file_offset=59), "overlap"),
    ("out of order", lambda tree: tree.entries[3].pieces.reverse(), "out of order"),
    ("beyond the file", piece(file_offset=61), "beyond the end"),
    ("offset out of range", piece(file_offset=2**64 - 1), "beyond the end"),
    ("more digests", lambda tree: setattr(tree, "chunk_digests", bytes(64)), "columns"),
    ("half a digest", lambda tree: setattr(tree, "chunk_digests", bytes(31)), "columns"),
    ("empty chunk", lambda tree: tree.chunk_lengths.__setitem__(0, 0), "length is out of range"),
    (
        "chunk too long",
        lambda tree: tree.chunk_lengths.__setitem__(0, chunks.MAX_LENGTH + 1),
        "length is out of range",
    ),
]


@pytest.mark.parametrize(
    ("change", "message"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE]
)
def test_hostile(change: Callable[[cache_pb2.Tree], object], message: str) -> None:
    tree = sample()
    change(tree)
    with pytest.raises(CorruptObject, match=message):
        trees.parse(trees.serialise(tree))


def test_too_large() -> None:
    with pytest.raises(CorruptObject, match="more than"):
        trees.parse(bytes(trees.LIMITS.size + 1))


def test_names_that_are_not_utf8_and_deep_paths() -> None:
    tree = cache_pb2.Tree()
    tree.entries.add(mode=DIR)
    path = b"\xff\xfe"
    while len(path) <= trees.LIMITS.path:
        tree.entries.add(path=path, mode=DIR)
        path += b"/" + b"d" * 200
    trees.parse(trees.serialise(tree))
