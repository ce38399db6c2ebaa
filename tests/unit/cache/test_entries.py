"""Entries are read a block at a time, whatever somebody wrote, and memory stays bounded."""

from __future__ import annotations

import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks, entries, trees
from buildsvc.errors import CorruptObject

ROOT = cache_pb2.Entry(mode=0o40755)


def large(count: int) -> cache_pb2.Tree:
    tree = cache_pb2.Tree(entries=[ROOT])
    for number in range(count):
        tree.entries.add(path=b"%06d" % number, mode=0o100644, mtime_ns=number)
    return tree


def test_any_entry_is_found_in_any_order() -> None:
    tree = large(100_000)
    found = trees.parse(trees.serialise(tree)).entries
    assert len(found) == len(tree.entries)
    for number in (0, 99_999, 1, 50_000, 255, 256, 257, 99_999):
        assert found[number] == tree.entries[number]
    assert found[-1] == tree.entries[-1]
    assert found[255:258] == list(tree.entries)[255:258]
    with pytest.raises(IndexError):
        found[100_001]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x1a\x00\x0a\x00\x1a\x00" * 200, "lies between|comes twice"),
        (b"\x22\x00", "is none"),
        (b"\x0a\x00\x0a\x00", "comes twice"),
        (b"\x1a\x05abc", "ends within"),
        (b"\x1a", "ends within"),
        (b"\x1a\x80", "ends within"),
        (b"\x1a\x80\x80\x80\x80\x80\x80", "out of range"),
        (b"\x1a\x80\x80\x80\x01", "ends within"),
    ],
)
def test_what_no_writer_makes_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(CorruptObject, match=message):
        entries.read_fields(data, 1000)


@pytest.mark.parametrize("before", [1, 255, 256, 257, 512])
def test_nothing_lies_between_entries_where_a_block_begins_either(before: int) -> None:
    table = b"\x0a\x20" + bytes(32) + b"\x12\x01\x01"
    with pytest.raises(CorruptObject, match="lies between"):
        entries.read_fields(b"\x1a\x00" * before + table + b"\x1a\x00", 1000)
    assert len(entries.read_fields(b"\x1a\x00" * before + table, 1000).entries) == before


def test_more_entries_than_the_bound_are_not_looked_at() -> None:
    data = trees.serialise(large(10))
    assert len(entries.read_fields(data, 11).entries) == 11
    with pytest.raises(CorruptObject, match="too many"):
        entries.read_fields(data, 10)


def test_an_entry_beyond_the_bound_is_not_parsed() -> None:
    tree = large(1)
    tree.entries[1].xattrs.add(name=b"user.x", value=bytes(entries.MAX_ENTRY))
    with pytest.raises(CorruptObject, match="too large"):
        trees.parse(trees.serialise(tree))


def test_lengths_that_are_none() -> None:
    digest = bytes(32)
    for lengths in (b"\x00", b"\x80", b"\x81\x80\x80\x02", b"\x80\x80\x80\x80\x01", b"\x01\x01"):
        column = b"\x0a\x20" + digest + b"\x12" + bytes([len(lengths)]) + lengths
        with pytest.raises(CorruptObject, match="length"):
            trees.parse(column + trees.serialise(cache_pb2.Tree(entries=[ROOT])))
    longest = cache_pb2.Tree(
        entries=[ROOT], chunk_digests=digest, chunk_lengths=[chunks.MAX_LENGTH]
    )
    assert trees.parse(trees.serialise(longest)).chunk_lengths == array("I", [chunks.MAX_LENGTH])


def empty_entries() -> bytes:
    return b"\x1a\x00" * (trees.LIMITS.size // 2)


def empty_pieces() -> bytes:
    entry = b"\x5a\x00" * (entries.MAX_ENTRY // 2)
    one = cache_pb2.Tree(entries=[ROOT]).SerializeToString()
    return one + (b"\x1a\x80\x80\x40" + entry) * 60


@pytest.mark.parametrize("hostile", [empty_entries, empty_pieces])
def test_a_hostile_tree_takes_little_memory(tmp_path: Path, hostile: object) -> None:
    """As one message the first would take 1.8 GB, the second 1.4 GB."""
    assert callable(hostile)
    (tmp_path / "tree").write_bytes(hostile())
    # Not what getrusage says: that begins with the memory of the process that forked.
    program = (
        "import re, sys\n"
        "from buildsvc.cache import trees\n"
        "from buildsvc.errors import CorruptObject\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "try: trees.parse(data)\n"
        "except CorruptObject: pass\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "tree"],
        check=True,
        capture_output=True,
    )
    assert int(ran.stdout) < 150 << 10
