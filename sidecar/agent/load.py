"""Lays the state of a generation into an empty root."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.errors import CorruptObject
from sidecar.agent import ports
from sidecar.agent.index import Kind, Row
from sidecar.agent.residency import Residency, blob
from sidecar.agent.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.agent.snapshotter import Snapshotter

_KINDS = {
    cache_pb2.SNAPSHOT_KIND_VIEW: Kind.VIEW,
    cache_pb2.SNAPSHOT_KIND_ACTIVE: Kind.ACTIVE,
    cache_pb2.SNAPSHOT_KIND_COMMITTED: Kind.COMMITTED,
}
_DIGEST = 32


class Loading:
    """One Load call."""

    def __init__(
        self,
        snapshotter: Snapshotter,
        residency: Residency,
        *,
        packer: ports.Packer,
        blobs: ports.Blobs,
    ) -> None:
        self._snapshotter = snapshotter
        self._residency = residency
        self._packer = packer
        self._blobs = blobs

    async def run(self, request: agent_pb2.LoadRequest) -> agent_pb2.LoadResponse:
        """The index, then blobs. Nothing serves buildkitd yet.

        Raises FailedPrecondition when there are snapshots already, CorruptObject, OSError.
        """
        root = await asyncio.to_thread(_parse, request.root_path)
        rows = _rows(root)
        specs = _specs(root)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._packer.know(Path(request.root_path)))
            group.create_task(self._snapshotter.restore(rows))
        leased, reason = await self._blobs.place(specs, leased=request.lease_blobs)
        for spec in specs:
            self._residency.add_lazy(blob(spec.digest))
        return agent_pb2.LoadResponse(
            snapshots=len(rows), blobs_leased=leased, leases_unavailable=reason
        )


def _parse(path: str) -> cache_pb2.Root:
    try:
        return cache_pb2.Root.FromString(Path(path).read_bytes())
    except DecodeError as error:
        raise CorruptObject("the generation's root cannot be read", found=str(error)) from error


def _rows(root: cache_pb2.Root) -> list[Row]:
    """Rows of the index, numbered from 1. Raises CorruptObject for rows that cannot be."""
    rows: dict[str, Row] = {}
    for number, each in enumerate(root.snapshots, start=1):
        info = each.info
        kind = _KINDS.get(info.kind)
        if kind is None or not info.name or info.name in rows:
            raise CorruptObject(f"the generation has no valid snapshot {info.name!r}")
        has_tree = each.HasField("tree")
        # An active one without a tree begins empty.
        if kind is not Kind.ACTIVE and has_tree == (kind is Kind.VIEW):
            raise CorruptObject(f"snapshot {info.name} should have a tree unless it is a view")
        rows[info.name] = Row(
            number,
            info.name,
            info.parent,
            kind,
            dict(info.labels),
            info.created_unix_ns,
            info.updated_unix_ns,
            usage=Usage(info.usage_bytes, info.usage_inodes),
            lazy=has_tree,
        )
    _check_parents(rows)
    return list(rows.values())


def _check_parents(rows: dict[str, Row]) -> None:
    sound: set[str] = {""}
    for row in rows.values():
        path: list[str] = []
        name = row.name
        while name not in sound:
            parent = rows.get(rows[name].parent)
            if name in path or (rows[name].parent and parent is None):
                raise CorruptObject(f"snapshot {name} has no valid chain of parents")
            if parent is not None and parent.kind is not Kind.COMMITTED:
                raise CorruptObject(f"parent {parent.name} of {name} is not committed")
            path.append(name)
            name = rows[name].parent
        sound.update(path)


def _specs(root: cache_pb2.Root) -> Sequence[ports.BlobSpec]:
    digests, lengths = root.chunk_digests, root.chunk_lengths
    try:
        return [
            ports.BlobSpec(
                each.digest,
                each.size,
                each.mtime_ns,
                [digests[_DIGEST * i : _DIGEST * (i + 1)] for i in each.data],
                [lengths[i] for i in each.data],
            )
            for each in root.blobs
        ]
    except IndexError:
        raise CorruptObject(
            "a blob of the generation names a chunk that it does not have"
        ) from None
