"""The agent's state of one instant, for the sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from sidecar.agent.index import Kind

if TYPE_CHECKING:
    from sidecar.agent.index import Row
    from sidecar.agent.ports import Blobs
    from sidecar.agent.residency import Residency
    from sidecar.agent.snapshotter import Snapshotter

KINDS = {
    Kind.VIEW: cache_pb2.SNAPSHOT_KIND_VIEW,
    Kind.ACTIVE: cache_pb2.SNAPSHOT_KIND_ACTIVE,
    Kind.COMMITTED: cache_pb2.SNAPSHOT_KIND_COMMITTED,
}


def state(snapshotter: Snapshotter, residency: Residency, blobs: Blobs) -> agent_pb2.State:
    """Immediate, so nothing happens between its parts."""
    return agent_pb2.State(
        sequence=snapshotter.sequence,
        snapshots=[_snapshot(snapshotter, row) for row in snapshotter.walk(())],
        blobs=blobs.state(),
        used=[key.message() for key in residency.used],
        breaks_pending=blobs.pending(),
    )


def _snapshot(snapshotter: Snapshotter, row: Row) -> agent_pb2.SnapshotState:
    residency = agent_pb2.RESIDENCY_LAZY if row.lazy else agent_pb2.RESIDENCY_LOCAL
    touched = snapshotter.touched.get(row.id, 0)
    return agent_pb2.SnapshotState(info=_info(row), residency=residency, touched=touched)


def _info(row: Row) -> cache_pb2.SnapshotInfo:
    return cache_pb2.SnapshotInfo(
        name=row.name,
        parent=row.parent,
        kind=KINDS[row.kind],
        labels=row.labels,
        created_unix_ns=row.created_ns,
        updated_unix_ns=row.updated_ns,
        usage_bytes=row.usage.bytes if row.usage else 0,
        usage_inodes=row.usage.inodes if row.usage else 0,
    )
