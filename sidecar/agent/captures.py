"""The Capture call: what may be packed, and what is skipped."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar.agent.index import Kind, NotFound
from sidecar.agent.residency import ObjectId, snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from sidecar.agent.index import Row
    from sidecar.agent.ports import Blobs, Packer
    from sidecar.agent.snapshotter import Snapshotter


class Captures:
    """All Capture calls of an agent. The packer takes their parts one after another."""

    def __init__(self, snapshotter: Snapshotter, *, packer: Packer, blobs: Blobs) -> None:
        self._snapshotter = snapshotter
        self._packer = packer
        self._blobs = blobs

    async def run(
        self, request: agent_pb2.CaptureRequest
    ) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        """The events of one call, in the order in which the request names things."""
        for name in request.snapshots:
            async with aclosing(self._snapshot(name, request)) as events:
                async for event in events:
                    yield event
        for captured in self._others(request):
            async with aclosing(captured) as events:
                async for event in events:
                    yield event

    async def _snapshot(
        self, name: str, request: agent_pb2.CaptureRequest
    ) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        try:
            row = self._snapshotter.stat(name)
        except NotFound:
            yield _skipped(snapshot(name), "it was removed")
            return
        if reason := _unfit(row, active=request.active):
            yield _skipped(snapshot(name), reason)
            return
        with self._snapshotter.held(row):
            layer = self._snapshotter.layer(row)
            captured = self._packer.capture_snapshot(
                name, layer, idle=request.idle, again=request.active, bare=request.bare
            )
            async with aclosing(captured) as events:
                async for event in events:
                    yield event

    def _others(
        self, request: agent_pb2.CaptureRequest
    ) -> Iterator[AsyncGenerator[agent_pb2.CaptureEvent, None]]:
        for digest in request.blobs:
            yield self._packer.capture_blob(digest, self._blobs.path(digest), idle=request.idle)
        if request.databases_dir:
            yield self._packer.capture_directory(Path(request.databases_dir), idle=request.idle)
        if request.flush:
            yield self._packer.flush()


def _unfit(row: Row, *, active: bool) -> str:
    """Why a snapshot cannot be captured; empty when it can."""
    if row.kind is Kind.VIEW:
        return "it is a view"
    if row.kind is Kind.ACTIVE and not active:
        return "it is active"
    if row.lazy:
        return "its bytes are not here"
    return ""


def _skipped(key: ObjectId, reason: str) -> agent_pb2.CaptureEvent:
    return agent_pb2.CaptureEvent(
        skipped=agent_pb2.SkippedObject(object=key.message(), reason=reason)
    )
