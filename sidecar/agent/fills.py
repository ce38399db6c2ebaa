"""The Fill call: which object, with which priority, and when it is not to be filled at all."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar.agent.filling import BlobTarget, Filling, SnapshotTarget, Target
from sidecar.agent.index import AlreadyExists, InvalidArgument, Kind, NotFound
from sidecar.agent.ports import DEMAND, Sibling
from sidecar.agent.residency import ObjectId, snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from sidecar.agent.index import Row
    from sidecar.agent.ports import Blobs, Unpacker
    from sidecar.agent.residency import Residency
    from sidecar.agent.snapshotter import Snapshotter


class Fills:
    """All Fill calls of an agent; each object is filled by one of them at a time."""

    def __init__(
        self, snapshotter: Snapshotter, residency: Residency, *, unpacker: Unpacker, blobs: Blobs
    ) -> None:
        self._snapshotter = snapshotter
        self._residency = residency
        self._unpacker = unpacker
        self._blobs = blobs
        self._running: set[ObjectId] = set()

    async def run(
        self, requests: AsyncIterator[agent_pb2.FillRequest]
    ) -> AsyncGenerator[agent_pb2.FillResponse, None]:
        """The answers to one call; `done` at once for an object that is there already.

        Raises NotFound, AlreadyExists while another call fills it, and what Filling raises.
        """
        first = await anext(requests, agent_pb2.FillRequest())
        if not first.HasField("header"):
            raise InvalidArgument("a fill begins with its header")
        key = ObjectId(first.header.object.kind, first.header.object.name)
        with ExitStack() as stack:
            target = self._target(key, first.header, stack)
            if target is None:
                yield agent_pb2.FillResponse(done=agent_pb2.FillDone())
                return
            filling = Filling(
                key, target, self._residency, tell_wanted=bool(first.header.link_from)
            )
            async with aclosing(filling.run(_segments(requests, first.header))) as answers:
                async for answer in answers:
                    yield answer

    def _target(
        self, key: ObjectId, header: agent_pb2.FillHeader, stack: ExitStack
    ) -> Target | None:
        def priority() -> int:
            return DEMAND if self._residency.is_demanded(key) else header.priority

        if key in self._running:
            raise AlreadyExists(f"{key.name} is being filled by another call")
        target: Target
        if key == snapshot(key.name):
            row = self._snapshotter.stat(key.name)
            target = SnapshotTarget(
                row,
                Path(header.tree_path),
                snapshotter=self._snapshotter,
                unpacker=self._unpacker,
                priority=priority,
                sibling=self._sibling(row, header.link_from, stack),
                keep_tree=header.keep_tree,
            )
            if not self._residency.is_local(key):
                stack.enter_context(self._snapshotter.held(row))
        else:
            self._blobs.chunks(key.name)
            target = BlobTarget(key.name, self._blobs)
        if self._residency.is_local(key):
            return None
        self._running.add(key)
        stack.callback(self._running.discard, key)
        return target

    def _sibling(self, row: Row, name: str, stack: ExitStack) -> Sibling | None:
        """What the snapshot `row` may be linked from: a layer that stays until the call ends.

        Both must be committed, as a write to either would be one to the other. The sibling has a
        tree only if it was restored here and was committed already then, so it is what that says.
        """
        try:
            sibling = self._snapshotter.stat(name)
        except NotFound:
            return None
        if row.kind is not Kind.COMMITTED or sibling.kind is not Kind.COMMITTED:
            return None
        if not self._residency.is_local(snapshot(name)):
            return None
        stack.enter_context(self._snapshotter.held(sibling))
        return Sibling(self._snapshotter.kept_tree(sibling), self._snapshotter.layer(sibling))


async def _segments(
    requests: AsyncIterator[agent_pb2.FillRequest], header: agent_pb2.FillHeader
) -> AsyncIterator[agent_pb2.Segment]:
    async for request in requests:
        match request.WhichOneof("request"):
            case "segment":
                yield request.segment
            case "priority":
                header.priority = request.priority
            case _:
                raise InvalidArgument("a fill has one header")
