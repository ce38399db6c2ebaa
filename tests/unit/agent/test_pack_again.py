"""Capture once more: what is read again, and what is remembered."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunking, chunks
from sidecar.agent.bundle import Bundle, Member
from sidecar.agent.scan import Found
from sidecar.agent.statcache import RACY_NS, Remembered, StatCache
from sidecar.agent.treewriter import Piece
from tests.unit.agent.ondisk import Cache


def many_files(source: Path, count: int = 400, size: int = 20_000) -> None:
    for number in range(count):
        directory = source / f"dir{number // 50:02}"
        directory.mkdir(exist_ok=True)
        (directory / f"file{number:03}").write_bytes(os.urandom(size))


def settle(clock: Callable[[], int] = time.time_ns) -> None:
    """Wait until what was written is old enough to be remembered."""
    until = clock() + RACY_NS + 10_000_000
    while clock() < until:
        time.sleep(0.005)


def test_a_changed_small_file_stores_one_bundle(source: Path, cache: Cache) -> None:
    many_files(source)
    first = cache.packer.capture_tree(source)
    (source / "dir03/file170").write_bytes(os.urandom(20_100))
    second = cache.packer.capture_tree(source)
    before = set(chunks.split_digests(first.data_digests))
    new = [d for d in chunks.split_digests(second.data_digests) if d not in before]
    assert len(new) == 1
    assert cache.chunk(new[0])[3] <= chunking.BUNDLE_MAX


def test_an_unchanged_tree_is_not_read_again(
    source: Path, cache: Cache, reads: list[bytes]
) -> None:
    many_files(source)
    (source / "large").write_bytes(os.urandom(3 << 20))
    os.setxattr(source / "large", "user.a", b"b")
    (source / "empty").touch()
    settle()
    first = cache.packer.capture_tree(source, remember="mount")
    assert len(reads) == 402
    reads.clear()
    assert cache.packer.capture_tree(source, remember="mount") == first
    assert reads == []
    assert cache.packer.capture_tree(source, remember="another") == first
    assert len(reads) == 402


def test_only_the_bundle_of_a_changed_file_is_read_again(
    source: Path, cache: Cache, reads: list[bytes]
) -> None:
    many_files(source)
    settle()
    cache.packer.capture_tree(source, remember="mount")
    (source / "dir03/file170").write_bytes(b"other")
    settle()
    reads.clear()
    second = cache.packer.capture_tree(source, remember="mount")
    assert b"dir03/file170" in reads
    assert 1 < len(reads) <= 2 * chunking.BUNDLE_MAX // 20_000
    with Cache(cache.staging / "fresh") as fresh:
        assert fresh.packer.capture_tree(source) == second
    reads.clear()
    assert cache.packer.capture_tree(source, remember="mount") == second
    assert reads == []


def test_a_change_is_seen_whatever_the_mtime_says(source: Path, cache: Cache) -> None:
    (source / "file").write_bytes(b"before")
    status = os.stat(source / "file")
    settle()
    first = cache.packer.capture_tree(source, remember="mount")
    with open(source / "file", "r+b") as file:
        file.write(b"after!")
    os.utime(source / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
    second = cache.packer.capture_tree(source, remember="mount")
    assert second.data_digests != first.data_digests


def test_a_file_that_may_change_unseen_is_read_again(
    source: Path, cache: Cache, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "file").write_bytes(b"just now")
    status = os.stat(source / "file")
    monkeypatch.setattr(time, "time_ns", lambda: status.st_ctime_ns + RACY_NS // 2)
    cache.packer.capture_tree(source, remember="mount")
    cache.packer.capture_tree(source, remember="mount")
    assert reads == [b"file", b"file"]


@pytest.mark.parametrize(
    ("pieces", "same"),
    [
        ([(b"one", 20, 0, 10, 0), (b"one", 20, 10, 10, 0)], True),
        ([(b"one", 20, 0, 10, 0)], False),
        ([(b"one", 20, 0, 10, 0), (b"two", 20, 10, 10, 0)], False),
        # The same content was in two bundles; half of each is not what both are.
        ([(b"one", 20, 10, 10, 0), (b"one", 20, 0, 10, 0)], False),
        ([None, (b"one", 20, 10, 10, 0)], False),
        ([(b"one", 20, 0, 10, 0), None], False),
    ],
    ids=["whole", "half", "two chunks", "swapped", "new first", "new last"],
)
def test_a_bundle_is_reused_only_whole(
    tmp_path: Path, pieces: list[Piece | None], *, same: bool
) -> None:
    bundle = Bundle()
    found = Found(b"path", b"path", -1, 0, tmp_path.stat(), -1)
    for piece in pieces:
        before = Remembered(1, 10, 0, 0, (), (piece,)) if piece else None
        bundle.add(Member(found, cache_pb2.Entry(), (), [(0, 10)], 10, None, before))
    assert bundle.as_before() == (b"one" if same else None)


def test_the_stat_cache_forgets_what_was_captured_longest_ago() -> None:
    file = Remembered(1, 0, 0, 0, (), ())
    stats = StatCache(limit=3)
    stats.remember("a", {b"1": file})
    stats.remember("b", {b"1": file, b"2": file})
    stats.remember("a", {b"1": file})
    stats.remember("c", {b"1": file})
    assert [len(stats.files(name)) for name in "abc"] == [1, 0, 1]
