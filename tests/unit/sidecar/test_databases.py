"""What the databases say, and room for them on a disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildsvc.cache import bolt
from buildsvc.cache.records import METADATA
from sidecar import databases
from tests.unit.cache.boltfiles import (
    Entry,
    bucket,
    database,
    freelist,
    history,
    inline,
    leaf,
    records,
)


def laid(root: Path, size: int) -> list[Path]:
    """Sparse files of this size in the place of the databases."""
    paths = [root / name for name in (databases.SOLVER, METADATA, databases.CONTAINERD)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size)
    return paths


def test_they_have_room_for_a_prune_and_are_as_large_as_before(tmp_path: Path) -> None:
    size = 3 << 20
    paths = laid(tmp_path, size)
    databases.reserve(tmp_path)
    for path in paths:
        assert path.stat().st_blocks * 512 > size
        assert path.read_bytes() == bytes(size)


def test_a_disk_without_that_room_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid(tmp_path, 0)
    monkeypatch.setattr(databases, "_MARGIN", 1 << 50)
    with pytest.raises(OSError, match=r"cache\.db"):
        databases.reserve(tmp_path)


def test_on_a_full_disk_what_was_taken_before_is_enough_until_most_of_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, margin = 3 << 20, 1 << 20
    paths = laid(tmp_path, size)
    databases.reserve(tmp_path)
    monkeypatch.setattr(databases, "_MARGIN", 1 << 50)
    for path in paths:
        os.truncate(path, size + margin // 2)
    databases.reserve(tmp_path)
    os.truncate(paths[1], size + margin - (1 << 16))
    with pytest.raises(OSError, match=r"metadata_v2\.db"):
        databases.reserve(tmp_path)


def test_a_local_context_counts_until_it_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / METADATA
    path.parent.mkdir(parents=True)
    context = {"id": "one", "recordType": "source.local"}
    path.write_bytes(records(context, {"id": "two", "recordType": "regular"}))
    assert databases.local_contexts(tmp_path) == 1
    path.write_bytes(records({**context, "deleted": True}))
    assert databases.local_contexts(tmp_path) == 0


def test_builds_that_a_history_remembers(tmp_path: Path) -> None:
    assert databases.remembered_builds(tmp_path) == frozenset()
    path = tmp_path / databases.HISTORY
    path.write_bytes(history("one", "two"))
    assert databases.remembered_builds(tmp_path) == {"one", "two"}
    path.write_bytes(database(freelist(2, []), leaf(3, [])))
    assert databases.remembered_builds(tmp_path) == frozenset()
    path.write_bytes(b"nothing of the kind")
    assert databases.remembered_builds(tmp_path) == frozenset()


def test_blobs_that_are_forgotten_are_in_no_namespace(tmp_path: Path) -> None:
    entries: list[Entry] = [
        (digest, inline([(b"size", b"1")]), 1) for digest in (b"sha:a", b"sha:b")
    ]
    path = tmp_path / databases.CONTAINERD
    path.parent.mkdir(parents=True)
    path.write_bytes(
        database(
            freelist(2, []),
            leaf(3, [(b"v1", bucket(4), 1)]),
            leaf(4, [(b"buildkit", bucket(5), 1), (b"buildkit_history", bucket(7), 1)]),
            leaf(5, [(b"content", bucket(6), 1), (b"leases", inline([(b"sha:a", b"")]), 1)]),
            leaf(6, [(b"blob", bucket(8), 1)]),
            leaf(7, [(b"content", bucket(9), 1)]),
            leaf(8, entries),
            leaf(9, [(b"blob", bucket(10), 1)]),
            leaf(10, entries),
        )
    )
    databases.forget_blobs(tmp_path, ["sha:a", "sha:c"])
    with bolt.Database(path) as opened:
        opened.check()
        for namespace in (b"buildkit", b"buildkit_history"):
            blobs = opened.root.bucket(b"v1", namespace, b"content", b"blob")
            assert blobs is not None
            assert [digest for digest, _ in blobs.buckets()] == [b"sha:b"]
        leases = opened.root.bucket(b"v1", b"buildkit", b"leases")
        assert leases is not None
        assert leases.values() == {b"sha:a": b""}
