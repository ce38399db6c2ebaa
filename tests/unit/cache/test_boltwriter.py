"""A database written again: the same but for what is not kept, and whole to who checks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from buildsvc.cache import bolt, boltwriter
from buildsvc.errors import CorruptObject
from tests.unit.cache.boltfiles import SIZE, Entry, bucket, database, freelist, inline, leaf

if TYPE_CHECKING:
    from pathlib import Path

Tree = dict[bytes, "bytes | tuple[int, Tree]"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.db"


def tree(found: bolt.Bucket) -> Tree:
    return {
        key: (value.sequence, tree(value)) if isinstance(value, bolt.Bucket) else value
        for key, value in found.items()
    }


def read(path: Path) -> Tree:
    with bolt.Database(path) as opened:
        opened.check()
        return tree(opened.root)


def of(entries: list[Entry]) -> bytes:
    """A database with one bucket, whose leaf is as long as it has to be."""
    overflow = (len(leaf(4, entries)) - 1) // SIZE
    root = leaf(3, [(b"all", bucket(4)[:8] + (42).to_bytes(8, "little"), 1)])
    return database(freelist(2, []), root, leaf(4, entries, overflow), end=5 + overflow)


@pytest.mark.parametrize("count", [0, 1, 50, 600])
@pytest.mark.parametrize("size", [0, 30, 5_000])
def test_all_is_kept(path: Path, count: int, size: int) -> None:
    entries = [(b"%06d" % index, bytes([index % 256]) * size) for index in range(count)]
    path.write_bytes(of([*entries]))
    before = read(path)
    boltwriter.rewrite(path, lambda _: True)
    assert read(path) == before == {b"all": (42, dict(entries))}
    assert bolt.txid(path) == 7
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_long_keys_make_branches_on_branches(path: Path) -> None:
    entries = [(b"%06d" % index + b"k" * 1_500, b"") for index in range(300)]
    path.write_bytes(of([*entries]))
    boltwriter.rewrite(path, lambda _: True)
    assert read(path) == {b"all": (42, dict(entries))}


def test_what_is_not_kept_goes_with_all_that_is_in_it(path: Path) -> None:
    some = inline([(b"createdat", b"1"), (b"size", b"2")])
    entries: list[Entry] = [(b"blob-%03d" % index, some, 1) for index in range(200)]
    path.write_bytes(of([*entries, (b"version", b"4")]))
    gone = {b"blob-%03d" % index for index in range(0, 200, 7)} | {b"createdat"}
    boltwriter.rewrite(path, lambda keys: keys[-1] not in gone)
    (_, left) = read(path)[b"all"]
    assert isinstance(left, dict)
    assert len(left) == 1 + 200 - 29
    assert left[b"version"] == b"4"
    assert left[b"blob-001"] == (0, {b"size": b"2"})


def test_the_newest_of_the_two_meta_pages_is_the_transactions_own(path: Path) -> None:
    """bbolt's next transaction writes to the other one."""
    path.write_bytes(of([(b"k", b"v")]))
    boltwriter.rewrite(path, lambda _: True)
    data = bytearray(path.read_bytes())
    data[SIZE + 30] ^= 1
    path.write_bytes(data)
    assert bolt.txid(path) == 6
    assert read(path) == {b"all": (42, {b"k": b"v"})}


def test_a_database_that_is_not_whole_stays_as_it_is(path: Path) -> None:
    data = database(freelist(2, []), leaf(3, [(b"all", bucket(9), 1)]))
    path.write_bytes(data)
    with pytest.raises(CorruptObject, match="out of bounds"):
        boltwriter.rewrite(path, lambda _: True)
    assert path.read_bytes() == data
    assert [file.name for file in path.parent.iterdir()] == [path.name]
