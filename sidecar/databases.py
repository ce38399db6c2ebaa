"""buildkitd's databases: which files they are, and copies that can be published."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import bolt, boltwriter, trees
from buildsvc.cache.records import (
    CACHE_MOUNT,
    LOCAL_CONTEXT,
    METADATA,
    WORKER,
    mount_names,
    own_name,
    read_records,
)
from buildsvc.cache.roots import ChunkTable
from buildsvc.errors import CorruptObject

#: Relative to buildkitd's root, as all of these.
CONTENT = f"{WORKER}/content/blobs"
CONTAINERD = f"{WORKER}/containerdmeta.db"
SOLVER = "cache.db"
HISTORY = "history.db"
#: Part of every key in cache.db: without it nothing hits.
WORKER_ID = f"{WORKER}/workerid"
_BOLT = (SOLVER, METADATA, CONTAINERD, HISTORY)
#: Bytes of all of them that are still believed; they are laid out in memory.
_LARGEST = 1 << 30
#: A build under way changes these; history alone is written up to 3 s after a build.
_CHANGED_BY_BUILDS = (SOLVER, METADATA, CONTAINERD)
#: Bytes that are taken beyond each of them, and of these what must be left for a prune.
_MARGIN, _ENOUGH = 1 << 20, 1 << 18
_FALLOC_FL_KEEP_SIZE = 1

_libc = ctypes.CDLL(None, use_errno=True)


def transactions(root: Path) -> tuple[int, ...]:
    """Number of the newest transaction of each database that a build changes."""
    return tuple(bolt.txid(root / name) for name in _CHANGED_BY_BUILDS)


def reserve(root: Path) -> None:
    """Take the room on the disk that a prune may need for the databases, before the disk is full.

    A record that buildkitd could not mark as deleted, since its disk was full, is dead to it all
    the same: it is in the database, and no later prune removes it (cache/manager.go, pruneOnce).
    What has been taken before is enough while a part of it is left: on a full disk it is a prune
    that makes room, of what a failed step has written too.

    Raises:
        OSError: there is no room.
    """
    for path in (root / name for name in _CHANGED_BY_BUILDS):
        # Whoever reads one that is missing says so.
        with suppress(FileNotFoundError), path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            start, length = ctypes.c_int64(0), ctypes.c_int64(size + _MARGIN)
            if _libc.fallocate(file.fileno(), _FALLOC_FL_KEEP_SIZE, start, length) == 0:
                continue
            number = ctypes.get_errno()
            # A file system that cannot do that.
            if number == errno.EOPNOTSUPP:
                continue
            # Blocks beyond the end are those that were taken: there are no holes before them.
            if os.fstat(file.fileno()).st_blocks * 512 < size + _ENOUGH:
                raise OSError(number, os.strerror(number), str(path))


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


def copy_records(root: Path, into: Path) -> None:
    """Copy what ``records`` reads, of a paused buildkitd."""
    (into / METADATA).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(root / METADATA, into / METADATA)


def lay(tree: bytes, content: bytes, generation: cache_pb2.Root, root: Path) -> None:
    """Write restored databases into what becomes buildkitd's root, all of them or none.

    They belong to root inside the namespace, which is the user that the sidecar runs as.

    Args:
        tree: the serialised Tree.
        content: the verified chunks of its content, one after another.
        generation: whose databases they are.
        root: an empty directory that nobody else uses.

    Raises:
        CorruptObject: the tree is not valid, is of other chunks, or has something else in it.
    """
    parsed = trees.parse(tree)
    ChunkTable(generation).check_tree(generation.databases, parsed)
    starts = list(accumulate(parsed.chunk_lengths, initial=0))
    known = {os.fsencode(name) for name in (*_BOLT, WORKER_ID)}
    files = [entry for entry in parsed.entries if not stat.S_ISDIR(entry.mode)]
    if sum(entry.size for entry in files) > _LARGEST:
        raise CorruptObject("the databases are larger than any that a daemon makes")
    if strange := [e.path for e in files if e.path not in known or not stat.S_ISREG(e.mode)]:
        raise CorruptObject(f"the databases have something else among them: {strange[0]!r}")
    try:
        for entry in files:
            path = root / os.fsdecode(entry.path)
            path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            _write(path, entry, starts, content)
    except BaseException:
        for path in root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _write(path: Path, entry: cache_pb2.Entry, starts: list[int], content: bytes) -> None:
    data = bytearray(entry.size)
    for piece in entry.pieces:
        start = starts[piece.chunk] + piece.chunk_offset
        data[piece.file_offset : piece.file_offset + piece.length] = content[
            start : start + piece.length
        ]
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(data)


def local_blobs(root: Path, lazy: frozenset[str]) -> list[str]:
    """Digests of the blobs whose bytes are on disk.

    Files are only listed: those with leases must not be opened, others may go at any time.
    """
    content = root / CONTENT
    found = [
        f"{algorithm.name}:{name}"
        for algorithm in (content.iterdir() if content.exists() else ())
        for name in os.listdir(algorithm)
    ]
    return [digest for digest in found if digest not in lazy]


def forget_blobs(copied: Path, digests: Collection[str]) -> None:
    """Let a daemon that starts with the copy not know blobs: it fetches or makes what it needs.

    containerd keeps them as v1/NAMESPACE/content/blob/DIGEST. What holds or names one may go on
    doing so: its garbage collection goes from what is named to what is there.

    Raises:
        CorruptObject: the database is not whole.
    """
    gone = {digest.encode() for digest in digests}

    def keep(path: tuple[bytes, ...]) -> bool:
        return len(path) != 5 or path[2:4] != (b"content", b"blob") or path[4] not in gone

    bolt.check(copied / CONTAINERD)
    boltwriter.rewrite(copied / CONTAINERD, keep)


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


@dataclass(frozen=True)
class Records:
    """Records of the cache by the name that a snapshot's key ends in: all, and cache mounts.

    ``mounts``: what a Dockerfile may call each of them. ``parents``: for a record those that it
    holds, as layer, merge or diff. ``blobs``: records by the digest of their layer's blob.
    """

    ids: dict[str, list[str]]
    mounts: Mapping[str, tuple[str, ...]]
    parents: dict[str, list[str]] = field(default_factory=dict)
    blobs: dict[str, list[str]] = field(default_factory=dict)

    def nobodys(self, blobs: Iterable[str]) -> frozenset[str]:
        """Return those that are no record's layer, as manifests, configurations and logs."""
        return frozenset(digest for digest in blobs if not self.blobs.get(digest))

    def needing(
        self, snapshots: Iterable[str], below: Mapping[str, str], blobs: Iterable[str] = ()
    ) -> list[str]:
        """Return the records that cannot be without the snapshots, or without the blobs.

        They are these' own, those of what lies on them, and all that hold one of these: a merge
        (``COPY --link``) or a diff may have no snapshot, or one with another parent.

        Args:
            snapshots: their names.
            below: the parent of each snapshot, all of them by name.
            blobs: digests of layers' blobs.
        """
        needing: defaultdict[str, list[str]] = defaultdict(list)
        for name, parent in below.items():
            needing[parent].append(name)
            for record in self.ids.get(own_name(name), ()):
                needing[name].append(record)
                needing[record].append(name)
        for record, held in self.parents.items():
            for parent in held:
                needing[parent].append(record)
        holders = (record for digest in blobs for record in self.blobs.get(digest, ()))
        found = list(dict.fromkeys((*snapshots, *holders)))
        seen = set(found)
        for one in found:
            more = [other for other in dict.fromkeys(needing[one]) if other not in seen]
            seen.update(more)
            found += more
        known = {record for records in self.ids.values() for record in records}
        return [one for one in found if one in known]


def remembered_builds(root: Path) -> frozenset[str]:
    """Refs of the builds in the history of a daemon that does not run.

    None where there is no history, or one that cannot be read: buildkitd begins another then.
    """
    path = root / HISTORY
    try:
        with bolt.Database(path) as database:
            database.check()
            found = database.root.bucket(b"_records")
            return frozenset(ref.decode() for ref in found.values()) if found else frozenset()
    except (OSError, CorruptObject):
        return frozenset()


def records(copied: Path) -> Records:
    """Read which records use which snapshot."""
    ids: defaultdict[str, list[str]] = defaultdict(list)
    mounts: dict[str, tuple[str, ...]] = {}
    parents: dict[str, list[str]] = {}
    blobs: defaultdict[str, list[str]] = defaultdict(list)
    for record in read_records(copied / METADATA):
        ids[record.snapshot].append(record.id)
        if record.blob:
            blobs[record.blob].append(record.id)
        if record.kind == CACHE_MOUNT:
            mounts[record.snapshot] = mount_names(record)
        if record.parents:
            parents[record.id] = record.parents
    return Records(dict(ids), mounts, parents, dict(blobs))


def local_contexts(copied: Path) -> int:
    """Count the local build contexts in a copy that a daemon could build with.

    Their trees are rewritten in place, without a call to the agent, while their content
    hashes sit in the database: a generation that has one could build a wrong image.
    """
    found = (r for r in read_records(copied / METADATA) if r.kind == LOCAL_CONTEXT)
    return sum(not record.deleted for record in found)
