"""buildkitd's databases: which files they are, and copies that can be published."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from buildsvc.errors import CorruptObject
from sidecar.agent import bolt

#: Relative to buildkitd's root. ``workerid`` is part of every key in cache.db: without it
#: nothing hits.
WORKER = "runc-overlayfs"
CONTENT = f"{WORKER}/content/blobs"
CONTAINERD = f"{WORKER}/containerdmeta.db"
METADATA = f"{WORKER}/metadata_v2.db"
SOLVER = "cache.db"
HISTORY = "history.db"
WORKER_ID = f"{WORKER}/workerid"
_BOLT = (SOLVER, METADATA, CONTAINERD, HISTORY)
#: A build under way changes these; history alone is written up to 3 s after a build.
_CHANGED_BY_BUILDS = (SOLVER, METADATA, CONTAINERD)


def transactions(root: Path) -> tuple[int, ...]:
    """Number of the newest transaction of each database that a build changes."""
    return tuple(bolt.txid(root / name) for name in _CHANGED_BY_BUILDS)


def copy(root: Path, into: Path) -> int:
    """Copy the databases of a paused buildkitd and return the bytes copied.

    bbolt writes data pages before its meta page, so a copy taken between two system
    calls of the daemon is whole.
    """
    copied = 0
    for name in (*_BOLT, WORKER_ID):
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
        copied += target.stat().st_size
    return copied


def local_blobs(root: Path, lazy: frozenset[str]) -> dict[str, int]:
    """Digests and sizes (bytes) of the blobs whose bytes are on disk.

    Leased files are only listed, never opened.
    """
    blobs: dict[str, int] = {}
    content = root / CONTENT
    for algorithm in content.iterdir() if content.exists() else ():
        with os.scandir(algorithm) as entries:
            for entry in entries:
                digest = f"{algorithm.name}:{entry.name}"
                if digest not in lazy:
                    blobs[digest] = entry.stat(follow_symlinks=False).st_size
    return blobs


def verify(copied: Path, snapshots: frozenset[str]) -> None:
    """Check that a scratch buildkitd would accept the copy.

    Args:
        copied: directory that ``copy`` filled.
        snapshots: names in the snapshot index of the same instant.

    Raises:
        CorruptObject: a database has a bad page, or containerd's names a snapshot that the
            index does not know (buildkitd would answer builds from it and then fail).
    """
    for name in _BOLT:
        bolt.check(copied / name)
    known = {row.name for row in bolt.snapshots(copied / CONTAINERD)}
    missing = sorted(known - snapshots)
    if missing:
        raise CorruptObject(
            f"{CONTAINERD} names {len(missing)} snapshots that the index does not have, "
            f"{missing[0]} first"
        )
    if not (copied / WORKER_ID).read_bytes().strip():
        raise CorruptObject(f"{WORKER_ID} is empty")


def local_contexts(copied: Path) -> int:
    """Count the local build contexts in a copy.

    Their trees are rewritten in place, without a call to the agent, while their content
    hashes sit in the database: a generation that has one could build a wrong image.
    """
    with bolt.Database(copied / METADATA) as database:
        records = database.root.bucket(b"_main")
        if records is None:
            return 0
        types = (record.values().get(b"cache.recordType", b"") for _, record in records.buckets())
        return sum(b'"source.local"' in value for value in types)
