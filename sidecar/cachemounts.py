"""Cache mounts that begin empty, because of what may be in them.

A daemon's databases say which snapshots are cache mounts. A generation without the tree of one is
whole all the same: to BuildKit a cache mount may be empty at any time, and it is in no cache key.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Container, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.records import own_name
from sidecar import databases
from sidecar.databases import Records
from sidecar.pause import paused
from sidecar.settings import Settings

ALL = ("*",)
"""The patterns that exclude each cache mount."""


def not_restored(settings: Settings, trust_domain: str) -> Sequence[str]:
    """Return patterns for what is not to be taken from a generation of that domain."""
    if trust_domain != settings.trust_domain and settings.fork_reads == "layers":
        return ALL
    return settings.exclude_mount


def excluded(records: Records, patterns: Sequence[str]) -> dict[str, str]:
    """Return the cache mounts that a pattern matches: BuildKit's own names, and what people say."""
    return {
        mount: (names or ("",))[0]
        for mount, names in records.mounts.items()
        if any(fnmatchcase(name, pattern) for name in names or ("",) for pattern in patterns)
    }


class Exclusion:
    """Finds the excluded cache mounts of a running daemon."""

    def __init__(self, patterns: Sequence[str], pid: int, root: Path, scratch: Path) -> None:
        """``root`` is buildkitd's, ``scratch`` a directory for a copy of its records."""
        self._patterns = patterns
        self._pid = pid
        self._root = root
        self._scratch = scratch

    async def among(self, active: Sequence[str]) -> dict[str, str]:
        """Return which of these active snapshots are excluded, and what people call each.

        The daemon is paused for the copy, so that it is of one instant. A step writes to a cache
        mount only after its record is complete.

        Raises:
            NotStopped: the daemon cannot be paused.
            CorruptObject: its records cannot be read.
        """
        if not self._patterns or not active:
            return {}
        copied = self._scratch / "records"
        async with paused(self._pid):
            await asyncio.to_thread(databases.copy_records, self._root, copied)
        records = await asyncio.to_thread(databases.records, copied)
        await asyncio.to_thread(shutil.rmtree, copied)
        mounts = excluded(records, self._patterns)
        # What no record has cannot be told from a cache mount, and nobody can use it.
        return {
            name: mounts.get(own, own)
            for name in active
            if (own := own_name(name)) in mounts or own not in records.ids
        }


def emptied(root: cache_pb2.Root, mounts: Container[str]) -> cache_pb2.Root:
    """Return the generation with nothing in these cache mounts, by BuildKit's own names."""
    left = cache_pb2.Root()
    left.CopyFrom(root)
    for snapshot in left.snapshots:
        info = snapshot.info
        if info.kind == cache_pb2.SNAPSHOT_KIND_ACTIVE and own_name(info.name) in mounts:
            snapshot.ClearField("tree")
            info.usage_bytes = info.usage_inodes = 0
    return left
