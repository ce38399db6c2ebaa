"""Capture: what is stored once, what is read again, and trees that do not hold still."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunking, chunks, trees
from buildsvc.errors import CorruptObject
from sidecar.agent import capture, messages, treewriter
from sidecar.agent.bundle import Bundle, Member
from sidecar.agent.channel import Channel
from sidecar.agent.errors import ChangedWhileReading, NotCapturable, StagingUnusable
from sidecar.agent.fitting import expect_entry
from sidecar.agent.pack import Packer
from sidecar.agent.pack_tasks import PackTasks
from sidecar.agent.reading import WINDOW, FileReader
from sidecar.agent.scan import Found, Xattrs
from sidecar.agent.statcache import RACY_NS, Remembered, StatCache
from sidecar.agent.treewriter import Piece
from tests.unit.agent.ondisk import Cache, describe, make_everything, write_sparse


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Paths of the files that were opened."""
    opened: list[bytes] = []

    class Counting(FileReader):
        def __init__(
            self, name: bytes, dir_fd: int | None, path: bytes, status: os.stat_result
        ) -> None:
            opened.append(path)
            super().__init__(name, dir_fd, path, status)

    monkeypatch.setattr(capture, "FileReader", Counting)
    return opened


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


def test_a_changed_small_file_stores_one_bundle(source: Path, cache: Cache) -> None:
    many_files(source)
    first = cache.packer.capture_tree(source)
    (source / "dir03/file170").write_bytes(os.urandom(20_100))
    second = cache.packer.capture_tree(source)
    before = set(chunks.split_digests(first.data_digests))
    new = [d for d in chunks.split_digests(second.data_digests) if d not in before]
    assert len(new) == 1
    assert cache.chunk(new[0])[3] <= chunking.BUNDLE_MAX


def test_a_tree_in_another_directory_shares_its_bundles(tmp_path: Path, cache: Cache) -> None:
    (tmp_path / "one").mkdir()
    many_files(tmp_path / "one")
    (tmp_path / "two/opt").mkdir(parents=True)
    first = cache.packer.capture_tree(tmp_path / "one")
    os.rename(tmp_path / "one", tmp_path / "two/opt/venv")
    second = cache.packer.capture_tree(tmp_path / "two")
    assert second.data_digests == first.data_digests


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


@pytest.mark.parametrize("most", [899, 900])
def test_writer_and_reader_take_the_same_number_of_pieces(
    source: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    for name in ("a", "b"):
        write_sparse(source / name, 1 << 30, [(n << 20, b"%04d" % n) for n in range(450)])
    (source / "one").write_bytes(b"a piece")
    serialised = cache.read(cache.packer.capture_tree(source).tree_digests)
    monkeypatch.setattr(trees, "MAX_PIECES", most)
    if most == 900:
        trees.parse(serialised)
        cache.packer.capture_tree(source)
        return
    with pytest.raises(CorruptObject, match="more than 899 pieces"):
        trees.parse(serialised)
    with pytest.raises(NotCapturable, match="more than 899 pieces"):
        cache.packer.capture_tree(source)


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


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (trees.Limits(1, 1000, 1000), "more than 1 entries"),
        (trees.Limits(1000, 10, 1000), "or 10 bytes"),
        (trees.Limits(1000, 1000, 3), "a path of 4 bytes"),
    ],
)
def test_a_tree_beyond_the_limits_is_refused(
    source: Path, cache: Cache, limits: trees.Limits, message: str
) -> None:
    (source / "name").touch()
    with pytest.raises(NotCapturable, match=message):
        Packer(cache.sink, limits).capture_tree(source)


def test_the_packing_process_gives_a_stand_in_for_a_tree_beyond_the_limits(
    source: Path, cache: Cache
) -> None:
    (source / "name").touch()
    source.chmod(0o1750)
    nobody = cast("Channel", None)
    tasks = PackTasks(nobody, cache.staging, trees.Limits(1, 1000, 1000))
    reply = tasks.run(messages.CaptureTree(os.fsencode(source), None, idle=False))
    tasks._sink._writer.discard()
    assert isinstance(reply, messages.TreeCaptured)
    assert "more than 1 entries" in reply.left_out
    bare = cache.packer.capture_bare(source)
    assert reply.tree_digests == bare.tree_digests
    (entry,) = trees.parse(cache.read(bare.tree_digests)).entries
    assert (entry.path, entry.mode, entry.uid) == (b"", 0o41750, os.geteuid())
    assert (bare.data_digests, bare.usage_inodes) == (b"", 1)


def test_the_packing_process_reads_nothing_in_a_bare_directory(source: Path, cache: Cache) -> None:
    (source / "token").write_bytes(os.urandom(20))
    tasks = PackTasks(cast("Channel", None), cache.staging, trees.LIMITS)
    reply = tasks.run(messages.CaptureTree(os.fsencode(source), "name", idle=False, bare=True))
    tasks._sink._writer.discard()
    assert isinstance(reply, messages.TreeCaptured)
    assert (reply.tree_digests, reply.left_out) == (
        cache.packer.capture_bare(source).tree_digests,
        "",
    )
    assert reply.data_digests == b""


@pytest.mark.parametrize("size", [trees.MAX_FILE, trees.MAX_FILE + 1])
def test_a_file_that_no_usual_file_system_holds_is_refused(source: Path, size: int) -> None:
    (source / "huge").touch()
    status = list(os.stat(source / "huge"))
    status[6] = size
    found = Found(b"huge", b"huge", -1, 0, os.stat_result(status), -1)
    if size == trees.MAX_FILE:
        expect_entry(found, trees.LIMITS)
    else:
        with pytest.raises(NotCapturable, match="a file of"):
            expect_entry(found, trees.LIMITS)


@pytest.mark.parametrize("limits", [trees.Limits(3, 1000, 1000), trees.Limits(1000, 26, 1000)])
def test_nothing_is_read_of_what_is_too_large(
    source: Path, cache: Cache, reads: list[bytes], limits: trees.Limits
) -> None:
    for number in range(3):
        (source / f"{number}").write_bytes(b"content %d" % number)
    with pytest.raises(NotCapturable, match="a tree of more than"):
        Packer(cache.sink, limits).capture_tree(source)
    assert (reads, cache.known) == ([], set())


def test_a_cache_mount_that_has_outgrown_the_limits_is_read_once(
    source: Path, cache: Cache, reads: list[bytes]
) -> None:
    packer = Packer(cache.sink, trees.Limits(3, 1000, 1000))
    (source / "a").write_bytes(b"a")
    settle()
    packer.capture_tree(source, remember="mount")
    (source / "b").write_bytes(b"b")
    (source / "c").write_bytes(b"c")
    with pytest.raises(NotCapturable):
        packer.capture_tree(source, remember="mount")
    reads.clear()
    with pytest.raises(NotCapturable):
        packer.capture_tree(source, remember="mount")
    assert reads == []
    (source / "c").unlink()
    packer.capture_tree(source, remember="mount")
    assert sorted(reads) == [b"a", b"b"]


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
