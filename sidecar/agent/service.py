"""containerd's Snapshots API over gRPC, in front of the snapshotter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from buildsvc._proto.containerd.services.snapshots.v1 import snapshots_pb2 as pb
from buildsvc._proto.containerd.services.snapshots.v1 import snapshots_pb2_grpc as pb_grpc
from buildsvc._proto.containerd.types import mount_pb2
from sidecar.agent import index
from sidecar.agent.statuses import Context, statuses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sidecar.agent.shapes import Mount
    from sidecar.agent.snapshotter import Snapshotter

_KINDS = {
    index.Kind.VIEW: pb.VIEW,
    index.Kind.ACTIVE: pb.ACTIVE,
    index.Kind.COMMITTED: pb.COMMITTED,
}
_LIST_BLOCK = 100


class SnapshotsService(pb_grpc.SnapshotsServicer):
    """Translates requests, answers and errors, with the codes that containerd gives them."""

    def __init__(self, snapshotter: Snapshotter) -> None:
        self._snapshotter = snapshotter

    async def Prepare(  # noqa: N802
        self, request: pb.PrepareSnapshotRequest, context: Context
    ) -> pb.PrepareSnapshotResponse:
        async with statuses(context):
            made = await self._snapshotter.prepare(
                request.key, request.parent, request.labels, direct=_is_merge(request, context)
            )
            return pb.PrepareSnapshotResponse(mounts=_mounts(made))

    async def View(  # noqa: N802
        self, request: pb.ViewSnapshotRequest, context: Context
    ) -> pb.ViewSnapshotResponse:
        async with statuses(context):
            made = await self._snapshotter.view(request.key, request.parent, request.labels)
            return pb.ViewSnapshotResponse(mounts=_mounts(made))

    async def Mounts(  # noqa: N802
        self, request: pb.MountsRequest, context: Context
    ) -> pb.MountsResponse:
        async with statuses(context):
            return pb.MountsResponse(mounts=_mounts(await self._snapshotter.mounts(request.key)))

    async def Commit(  # noqa: N802
        self, request: pb.CommitSnapshotRequest, context: Context
    ) -> Empty:
        async with statuses(context):
            await self._snapshotter.commit(
                request.name, request.key, request.parent, request.labels
            )
            return Empty()

    async def Remove(  # noqa: N802
        self, request: pb.RemoveSnapshotRequest, context: Context
    ) -> Empty:
        async with statuses(context):
            await self._snapshotter.remove(request.key)
            return Empty()

    async def Stat(  # noqa: N802
        self, request: pb.StatSnapshotRequest, context: Context
    ) -> pb.StatSnapshotResponse:
        async with statuses(context):
            return pb.StatSnapshotResponse(info=_info(self._snapshotter.stat(request.key)))

    async def Update(  # noqa: N802
        self, request: pb.UpdateSnapshotRequest, context: Context
    ) -> pb.UpdateSnapshotResponse:
        async with statuses(context):
            row = await self._snapshotter.update(
                request.info.name, request.info.labels, request.update_mask.paths
            )
            return pb.UpdateSnapshotResponse(info=_info(row))

    async def List(  # noqa: N802
        self, request: pb.ListSnapshotsRequest, context: Context
    ) -> AsyncIterator[pb.ListSnapshotsResponse]:
        async with statuses(context):
            infos = [_info(row) for row in self._snapshotter.walk(request.filters)]
            for start in range(0, len(infos), _LIST_BLOCK):
                yield pb.ListSnapshotsResponse(info=infos[start : start + _LIST_BLOCK])

    async def Usage(  # noqa: N802
        self, request: pb.UsageRequest, context: Context
    ) -> pb.UsageResponse:
        async with statuses(context):
            usage = await self._snapshotter.usage(request.key)
            return pb.UsageResponse(size=usage.bytes, inodes=usage.inodes)

    async def Cleanup(self, request: pb.CleanupRequest, context: Context) -> Empty:  # noqa: N802, ARG002
        async with statuses(context):
            await self._snapshotter.cleanup()
            return Empty()


def _is_merge(request: pb.PrepareSnapshotRequest, context: Context) -> bool:
    """Whether BuildKit's MergeOp (`COPY --link`) prepares this snapshot.

    It writes to the upper directory that it finds in an overlay's options, with hard links from
    other layers, and counts what it finds there; given the whole tree it would copy, and count the
    layers below as its own. Only merges and extractions call under a lease, which is sent as a
    header (BuildKit, `snapshot/merge.go` and `cache/refs.go`). Neither answer breaks anything.
    """
    leased = any(key == "containerd-lease" for key, _ in context.invocation_metadata() or ())
    # As in "buildkit/7/extract-…".
    return leased and not request.key.rpartition("/")[2].startswith("extract-")


def _mounts(made: Sequence[Mount]) -> list[mount_pb2.Mount]:
    return [mount_pb2.Mount(type=m.type, source=m.source, options=m.options) for m in made]


def _info(row: index.Row) -> pb.Info:
    return pb.Info(
        name=row.name,
        parent=row.parent,
        kind=_KINDS[row.kind],
        created_at=_timestamp(row.created_ns),
        updated_at=_timestamp(row.updated_ns),
        labels=row.labels,
    )


def _timestamp(nanoseconds: int) -> Timestamp:
    return Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)
