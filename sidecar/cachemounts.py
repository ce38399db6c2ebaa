"""Cache mounts that begin empty, because of what may be in them.

A daemon's databases say which snapshots are cache mounts. A generation without the tree of one is
whole all the same: to BuildKit a cache mount may be empty at any time, and it is in no cache key.
"""

from __future__ import annotations

from collections.abc import Container

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from sidecar.databases import own_name


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
