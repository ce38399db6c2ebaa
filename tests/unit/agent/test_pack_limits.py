"""Capture of what is too large, or not to be read: it is refused, or stood in for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest

from buildsvc.cache import trees
from buildsvc.errors import CorruptObject
from sidecar.agent import messages
from sidecar.agent.channel import Channel
from sidecar.agent.errors import NotCapturable
from sidecar.agent.fitting import expect_entry
from sidecar.agent.pack import Packer
from sidecar.agent.pack_tasks import PackTasks
from sidecar.agent.scan import Found
from tests.unit.agent.ondisk import Cache, write_sparse
from tests.unit.agent.test_pack_again import settle


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
