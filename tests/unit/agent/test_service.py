"""What the Snapshots API says over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import grpc
import grpc.aio
import pytest

from buildsvc._proto.containerd.services.snapshots.v1 import snapshots_pb2 as pb
from buildsvc._proto.containerd.services.snapshots.v1 import snapshots_pb2_grpc as pb_grpc
from sidecar.agent import index
from sidecar.agent.index import Kind, Row
from sidecar.agent.service import SnapshotsService
from sidecar.agent.shapes import Mount
from sidecar.agent.snapshotter import Snapshotter
from sidecar.agent.usage import Usage


class Scripted(Snapshotter):
    """Answers what a test has put in, or raises it."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.direct: bool | None = None
        self.rows: list[Row] = []

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error

    async def prepare(
        self, key: str, parent: str, labels: Mapping[str, str], *, direct: bool = False
    ) -> list[Mount]:
        self._raise()
        self.direct = direct
        return [Mount("bind", f"/{key}/{parent}", [f"{k}={v}" for k, v in labels.items()])]

    def walk(self, expressions: Sequence[str]) -> list[Row]:  # noqa: ARG002
        self._raise()
        return self.rows

    async def usage(self, name: str) -> Usage:
        self._raise()
        return Usage(len(name), 1)

    async def remove(self, key: str) -> None:  # noqa: ARG002
        self._raise()


@pytest.fixture
def snapshotter() -> Scripted:
    return Scripted()


@pytest.fixture
async def stub(snapshotter: Scripted, tmp_path: Path) -> AsyncIterator[pb_grpc.SnapshotsAsyncStub]:
    server = grpc.aio.server()
    pb_grpc.add_SnapshotsServicer_to_server(SnapshotsService(snapshotter), server)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        yield pb_grpc.SnapshotsStub(channel)
    await server.stop(None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (index.NotFound("x"), grpc.StatusCode.NOT_FOUND),
        (index.AlreadyExists("x"), grpc.StatusCode.ALREADY_EXISTS),
        (index.FailedPrecondition("x"), grpc.StatusCode.FAILED_PRECONDITION),
        (index.InvalidArgument("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (index.Unavailable("x"), grpc.StatusCode.UNAVAILABLE),
        (OSError(28, "No space left on device"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (OSError(5, "Input/output error"), grpc.StatusCode.UNKNOWN),
    ],
)
async def test_errors_have_the_codes_of_containerd(
    stub: pb_grpc.SnapshotsAsyncStub,
    snapshotter: Scripted,
    error: Exception,
    code: grpc.StatusCode,
) -> None:
    snapshotter.error = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Remove(pb.RemoveSnapshotRequest(key="k"))
    assert caught.value.code() is code
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.List(pb.ListSnapshotsRequest()):
            pass
    assert caught.value.code() is code


async def test_mounts_are_passed_on(stub: pb_grpc.SnapshotsAsyncStub) -> None:
    request = pb.PrepareSnapshotRequest(key="k", parent="p", labels={"a": "b"})
    (mount,) = (await stub.Prepare(request)).mounts
    assert (mount.type, mount.source, list(mount.options)) == ("bind", "/k/p", ["a=b"])


@pytest.mark.parametrize(
    ("key", "metadata", "direct"),
    [
        ("buildkit/3/u6kz", (), False),
        ("buildkit/3/u6kz", (("containerd-namespace", "buildkit"),), False),
        ("buildkit/3/u6kz", (("containerd-lease", "1"),), True),
        ("buildkit/3/extract-u6kz sha256:1", (("containerd-lease", "1"),), False),
    ],
)
async def test_a_merge_is_known_by_its_lease(
    stub: pb_grpc.SnapshotsAsyncStub,
    snapshotter: Scripted,
    key: str,
    metadata: tuple[tuple[str, str], ...],
    direct: bool,  # noqa: FBT001
) -> None:
    await stub.Prepare(pb.PrepareSnapshotRequest(key=key), metadata=metadata)
    assert snapshotter.direct is direct


async def test_long_lists_come_in_blocks(
    stub: pb_grpc.SnapshotsAsyncStub, snapshotter: Scripted
) -> None:
    snapshotter.rows = [
        Row(n, f"n{n}", "", Kind.VIEW, {"l": str(n)}, 1_500_000_001, 2) for n in range(250)
    ]
    blocks = [block async for block in stub.List(pb.ListSnapshotsRequest())]
    assert [len(block.info) for block in blocks] == [100, 100, 50]
    info = blocks[2].info[49]
    assert (info.name, info.kind, dict(info.labels)) == ("n249", pb.VIEW, {"l": "249"})
    assert (info.created_at.seconds, info.created_at.nanos) == (1, 500_000_001)
    assert info.updated_at.nanos == 2


async def test_unknown_fields_are_tolerated(stub: pb_grpc.SnapshotsAsyncStub) -> None:
    # Field 99 of a future request, a varint.
    request = pb.UsageRequest.FromString(
        pb.UsageRequest(key="four").SerializeToString() + b"\x98\x06\x01"
    )
    assert (await stub.Usage(request)).size == 4
