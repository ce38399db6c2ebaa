"""Capture: what is stored once, and trees that do not hold still."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunking, chunks, trees
from sidecar.agent import capture, treewriter
from sidecar.agent.errors import ChangedWhileReading, StagingUnusable
from sidecar.agent.reading import WINDOW
from sidecar.agent.scan import Found, Xattrs
from tests.unit.agent.ondisk import Cache, describe, make_everything, write_sparse
from tests.unit.agent.test_pack_again import many_files


def test_trees_are_valid_and_deterministic(tmp_path: Path, cache: Cache) -> None:
    make_everything(tmp_path / "everything")
    captured = cache.packer.capture_tree(tmp_path / "everything")
    tree = trees.parse(cache.read(captured.tree_digests))
    assert len(tree.entries) == len(describe(tmp_path / "everything"))
    assert cache.packer.capture_tree(tmp_path / "everything") == captured


def test_equal_content_is_stored_once(source: Path, cache: Cache) -> None:
    data = os.urandom(5 << 20)
    for name in ("one", "two"):
        (source / name).write_bytes(data)
    captured = cache.packer.capture_tree(source)
    digests = chunks.split_digests(captured.data_digests)
    assert len(digests) == len(set(digests)) == len(list(chunking.split(data)))


def test_a_new_mtime_stores_only_a_tree(source: Path, cache: Cache) -> None:
    many_files(source)
    first = cache.packer.capture_tree(source)
    known = len(cache.known)
    for path in source.rglob("file*"):
        os.utime(path, ns=(7, 7))
    second = cache.packer.capture_tree(source)
    assert second.data_digests == first.data_digests
    assert len(cache.known) == known + len(second.tree_digests) // chunks.DIGEST_SIZE


def test_a_tree_in_another_directory_shares_its_bundles(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "one").mkdir()
    many_files(tmp_path / "one")
    (tmp_path / "two/opt").mkdir(parents=True)
    first = cache.packer.capture_tree(tmp_path / "one")
    os.rename(tmp_path / "one", tmp_path / "two/opt/venv")
    second = cache.packer.capture_tree(tmp_path / "two")
    assert second.data_digests == first.data_digests


def test_a_large_file_is_cut_as_if_it_were_in_memory(source: Path, cache: Cache) -> None:
    data = os.urandom(2 * WINDOW + 12_345)
    (source / "large").write_bytes(data)
    captured = cache.packer.capture_tree(source)
    expected = [chunks.digest(data[at : at + size]) for at, size in chunking.split(data)]
    assert chunks.split_digests(captured.data_digests) == expected


def test_scattered_ranges_of_a_sparse_file_share_chunks(source: Path, cache: Cache) -> None:
    write_sparse(source / "db", 1 << 30, [(n << 20, b"%04d" % n) for n in range(900)])
    captured = cache.packer.capture_tree(source)
    assert len(chunks.split_digests(captured.data_digests)) <= 3
    cache.restore(captured, source.parent / "target")
    assert describe(source.parent / "target") == describe(source)


class Meddling:
    """Calls a function when the first chunk is stored, which is in the middle of a capture."""

    def __init__(self, cache: Cache, meddle: Callable[[], object]) -> None:
        put = cache.sink.put
        left = [meddle]

        def putting(data: bytes | bytearray | memoryview) -> bytes:
            if left:
                left.pop()()
            return put(data)

        cache.sink.put = putting  # type: ignore[method-assign]


def _append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    "meddle",
    [
        lambda source: _append(source / "1 large"),
        lambda source: os.truncate(source / "1 large", 1000),
        lambda source: os.utime(source / "1 large", ns=(5, 5)),
        lambda source: (source / "dir").rename(source / "other"),
        lambda source: (source / "2 file").unlink(),
        lambda source: (source / "3 link").unlink(),
    ],
    ids=["append", "truncate", "utime", "rename", "unlink", "unlink link"],
)
def test_a_tree_that_changes_meanwhile_is_refused(
    source: Path, cache: Cache, meddle: Callable[[Path], object]
) -> None:
    (source / "1 large").write_bytes(os.urandom(2 * WINDOW))
    (source / "dir").mkdir()
    (source / "2 file").write_bytes(b"x")
    (source / "3 link").symlink_to("x")
    Meddling(cache, lambda: meddle(source))
    with pytest.raises(ChangedWhileReading):
        cache.packer.capture_tree(source)


def test_a_blob_is_captured_and_checked(tmp_path: Path, cache: Cache) -> None:
    data = os.urandom(3 << 20)
    path = tmp_path / "blob"
    path.write_bytes(data)
    name = "sha256:" + hashlib.sha256(data).hexdigest()
    captured = cache.packer.capture_blob(name, path)
    assert (captured.size, captured.mtime_ns) == (len(data), path.stat().st_mtime_ns)
    assert cache.read(captured.data_digests) == data
    for digest in chunks.split_digests(captured.data_digests):
        _, _, stored, length = cache.chunk(digest)
        assert stored == length
    path.write_bytes(bytes(len(data)))
    with pytest.raises(ChangedWhileReading, match="sha256"):
        cache.packer.capture_blob(name, path)


def test_an_empty_blob_has_no_chunks(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "blob").touch()
    name = "sha256:" + hashlib.sha256(b"").hexdigest()
    assert cache.packer.capture_blob(name, tmp_path / "blob").data_digests == b""


def test_a_bundle_that_does_not_fill_holds_few_entries(
    source: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "0").write_bytes(b"small")
    for number in range(600):
        (source / f"empty-{number:03}").touch()
    waiting = []
    add = treewriter.TreeWriter.add

    def counting(tree: treewriter.TreeWriter, found: Found, xattrs: Xattrs) -> cache_pb2.Entry:
        entry = add(tree, found, xattrs)
        waiting.append(tree.waiting)
        return entry

    monkeypatch.setattr(capture, "_WAITING", 300)
    monkeypatch.setattr(treewriter.TreeWriter, "add", counting)
    captured = cache.packer.capture_tree(source)
    assert max(waiting) == 300
    assert len(trees.parse(cache.read(captured.tree_digests)).entries) == 602


def test_a_tree_is_cut_while_it_is_written_as_if_it_were_whole(
    source: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30_000):
        name = f"{number:06}-{number * 7919 % 65536:04x}" + "n" * 200
        (source / name).touch()
    whole = cache.read(cache.packer.capture_tree(source).tree_digests)
    monkeypatch.setattr(treewriter, "_HELD", 1 << 20)
    captured = cache.packer.capture_tree(source)
    assert len(whole) > 6 << 20
    assert cache.read(captured.tree_digests) == whole
    cuts = [chunks.digest(whole[at : at + size]) for at, size in chunking.split(whole)]
    assert chunks.split_digests(captured.tree_digests) == cuts
    assert len(trees.parse(whole).entries) == 30_001


def test_a_staging_directory_that_fails_is_told_from_a_tree_that_does(
    source: Path, cache: Cache
) -> None:
    (source / "file").write_bytes(b"x")
    cache.staging.rmdir()
    with pytest.raises(StagingUnusable):
        cache.packer.capture_tree(source)
