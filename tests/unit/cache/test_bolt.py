"""What is read of bbolt databases, and what is found wrong with them."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from buildsvc.cache import bolt
from buildsvc.errors import CorruptObject
from tests.unit.cache.boltfiles import (
    FREELIST,
    SIZE,
    Entry,
    branch,
    bucket,
    database,
    freelist,
    inline,
    leaf,
    meta,
    pages,
)

if TYPE_CHECKING:
    from pathlib import Path

SNAPSHOT: list[Entry] = [(b"name", b"buildkit/1/one"), (b"parent", b"base")]
WHOLE = (
    freelist(2, [8]),
    leaf(3, [(b"v1", bucket(4), 1)]),
    leaf(4, [(b"buildkit", bucket(5), 1), (b"version", b"\x08")]),
    leaf(5, [(b"leases", inline([]), 1), (b"snapshots", bucket(6), 1)]),
    leaf(6, [(b"overlayfs", bucket(7), 1)]),
    branch(7, [(b"a", 9), (b"m", 10)]),
    b"whatever was here before it was freed",
    leaf(9, [(b"a", inline(SNAPSHOT), 1), (b"b", inline([(b"name", b"buildkit/2/b")]), 1)]),
    leaf(10, [(b"m", inline([*SNAPSHOT, (b"x" * 40, b"y" * 4000)]), 1)], overflow=1),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.db"


def whole() -> bytes:
    return database(*WHOLE, end=12)


def test_a_whole_database(path: Path) -> None:
    path.write_bytes(whole())
    bolt.check(path)
    assert bolt.txid(path) == 7
    with bolt.Database(path) as opened:
        # All but the free one.
        assert opened.check() == 11
        assert [key for key, _ in opened.root.items()] == [b"v1"]
        inner = opened.root.bucket(b"v1", b"buildkit")
        assert inner is not None
        assert [key for key, _ in inner.buckets()] == [b"leases", b"snapshots"]
        assert opened.root.bucket(b"v1", b"nothing", b"there") is None
        version = opened.root.bucket(b"v1")
        assert version is not None
        assert version.values() == {b"version": b"\x08"}


def test_snapshots_as_containerd_keeps_them(path: Path) -> None:
    path.write_bytes(whole())
    assert bolt.snapshots(path) == [
        bolt.SnapshotRow("a", "buildkit/1/one", "base"),
        bolt.SnapshotRow("b", "buildkit/2/b", ""),
        bolt.SnapshotRow("m", "buildkit/1/one", "base"),
    ]
    assert bolt.snapshots(path, snapshotter="native") == []


def test_the_newer_valid_meta_page_counts(path: Path) -> None:
    data = bytearray(whole())
    data[SIZE + 30] ^= 1  # torn while it was written
    path.write_bytes(data)
    assert bolt.txid(path) == 6
    bolt.check(path)


@pytest.mark.parametrize("size", [4096, 16384, 65536])
def test_the_page_size_is_found_without_the_first_meta_page(path: Path, size: int) -> None:
    second = meta(1, 7, root=3, free=2, end=4, size=size)
    path.write_bytes(pages(b"garbage", second, freelist(2, []), leaf(3, []), size=size))
    assert bolt.txid(path) == 7
    bolt.check(path)


def test_a_database_whose_free_pages_are_not_kept(path: Path) -> None:
    path.write_bytes(database(b"unused", leaf(3, [(b"k", b"v")]), free=2**64 - 1))
    bolt.check(path)


def test_a_long_list_of_free_pages(path: Path) -> None:
    count = 70_000
    length = -(-(16 + 8 + 8 * count) // SIZE)
    listing = struct.pack("<QHHIQ", 4, FREELIST, 0xFFFF, length - 1, count)
    listing += struct.pack(f"<{count}Q", *range(1000, 1000 + count))
    data = database(b"unused", leaf(3, [(b"k", b"v")]), listing, free=4, end=1000 + count)
    with open(path, "wb") as file:
        file.write(data)
        file.truncate((1000 + count) * SIZE)
    bolt.check(path)


def with_page(number: int, content: bytes) -> bytes:
    data = bytearray(whole())
    data[number * SIZE : (number + 1) * SIZE] = content + bytes(SIZE - len(content))
    return bytes(data)


def element(data: bytes, key_size: int = 0, value_size: int = 0) -> bytes:
    """A leaf whose only element has these sizes."""
    return data[:16] + struct.pack("<IIII", 0, 16, key_size, value_size)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"no database at all" * 1000, "no valid meta page"),
        (whole()[:-1], "do not fit"),
        (whole()[: 6 * SIZE], "do not fit"),
        (with_page(2, freelist(2, [8, 9])), "page 9 is in use and listed as free"),
        (with_page(2, freelist(2, [8, 8])), "free twice"),
        (with_page(2, leaf(2, [])), "not a list of free pages"),
        (with_page(2, freelist(2, [8])[:10] + b"\xf0\xff" + bytes(20)), "longer than its page"),
        (with_page(4, leaf(9, [])), "page 4 says that it is page 9"),
        (with_page(4, b""), "page 4 says that it is page 0"),
        (with_page(4, freelist(4, [])), "neither leaf nor branch"),
        (with_page(4, branch(4, [])), "neither leaf nor branch with children"),
        (with_page(4, leaf(4, [], overflow=100)), "longer than the file"),
        (with_page(5, leaf(5, [(b"b", b""), (b"a", b"")])), "not in order"),
        (with_page(5, leaf(5, [(b"a", b""), (b"a", b"")])), "not in order"),
        (with_page(9, leaf(9, [(b"z", b"")])), "not in order"),
        (with_page(7, branch(7, [(b"m", 9), (b"a", 10)])), "not in order"),
        (with_page(7, branch(7, [(b"a", 9), (b"m", 9)])), "page 9 is reached twice"),
        (with_page(7, branch(7, [(b"a", 9), (b"m", 7)])), "page 7 is reached twice"),
        (with_page(7, branch(7, [(b"a", 9), (b"m", 12)])), "out of bounds"),
        (with_page(7, branch(7, [(b"a", 9), (b"m", 1)])), "out of bounds"),
        (with_page(6, leaf(6, [(b"o", bucket(3), 1)])), "page 3 is reached twice"),
        (with_page(6, leaf(6, [(b"o", b"short", 1)])), "no header"),
        (with_page(6, leaf(6, [(b"o", bucket(0), 1)])), "no page"),
        (with_page(6, leaf(6, [(b"o", bucket(0) + branch(0, []), 1)])), "not a leaf"),
        (with_page(6, element(leaf(6, [(b"", b"")]), SIZE)), "beyond its page"),
        (with_page(6, element(leaf(6, [(b"", b"")]), 0, 2**32 - 1)), "beyond its page"),
        (with_page(6, leaf(6, [])[:10] + b"\xff\xff" + bytes(4)), "beyond its page"),
    ],
)
def test_what_is_not_whole_is_told(path: Path, data: bytes, reason: str) -> None:
    path.write_bytes(data)
    with pytest.raises(CorruptObject, match=reason):
        bolt.check(path)


def test_no_single_flipped_bit_breaks_the_checker(path: Path) -> None:
    """Whatever is found, it is found as CorruptObject, and in the end."""
    found = 0
    original = whole()
    for position in [*range(80), *range(2 * SIZE, len(original), 61)]:
        data = bytearray(original)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        try:
            bolt.check(path)
        except CorruptObject:
            found += 1
    assert found > 0


def test_a_file_that_is_not_there(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        bolt.txid(path)


def test_nothing_stays_open(path: Path) -> None:
    path.write_bytes(whole())
    before = os.listdir("/proc/self/fd")
    bolt.snapshots(path)
    path.write_bytes(b"x" * SIZE)
    with pytest.raises(CorruptObject):
        bolt.txid(path)
    assert os.listdir("/proc/self/fd") == before
