"""The sidecar's API over gRPC: proto/buildsvc/agent/v1/agent.proto."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2, agent_pb2_grpc
from sidecar.agent.captures import Captures
from sidecar.agent.fills import Fills
from sidecar.agent.load import Loading
from sidecar.agent.residency import ObjectId, blob
from sidecar.agent.state import state
from sidecar.agent.statuses import Context, statuses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.agent.events import Events
    from sidecar.agent.gate import Gate
    from sidecar.agent.ports import Blobs, Packer, Unpacker
    from sidecar.agent.residency import Residency
    from sidecar.agent.snapshotter import Snapshotter


class AgentService(agent_pb2_grpc.AgentServicer):
    """Each call delegates to the object that does the work."""

    def __init__(
        self,
        *,
        snapshotter: Snapshotter,
        residency: Residency,
        events: Events,
        gate: Gate,
        unpacker: Unpacker,
        packer: Packer,
        blobs: Blobs,
    ) -> None:
        self._snapshotter = snapshotter
        self._residency = residency
        self._events = events
        self._gate = gate
        self._packer = packer
        self._blobs = blobs
        self._loading = Loading(snapshotter, residency, packer=packer, blobs=blobs)
        self._fills = Fills(snapshotter, residency, unpacker=unpacker, blobs=blobs)
        self._captures = Captures(snapshotter, packer=packer, blobs=blobs)

    async def Load(  # noqa: N802
        self, request: agent_pb2.LoadRequest, context: Context
    ) -> agent_pb2.LoadResponse:
        async with statuses(context):
            return await self._loading.run(request)

    async def Watch(  # noqa: N802
        self,
        request: agent_pb2.WatchRequest,  # noqa: ARG002
        context: Context,
    ) -> AsyncIterator[agent_pb2.Event]:
        # What is waited for already would never be told again.
        demanded = [agent_pb2.Event(demand=key.message()) for key in self._residency.demanded()]
        with self._events.listening(demanded) as queue:
            # The client can know by this that it listens.
            await context.send_initial_metadata(())
            while True:
                yield await queue.get()

    async def Fill(  # noqa: N802
        self, request_iterator: AsyncIterator[agent_pb2.FillRequest], context: Context
    ) -> AsyncIterator[agent_pb2.FillResponse]:
        async with statuses(context), aclosing(self._fills.run(request_iterator)) as answers:
            async for answer in answers:
                yield answer

    async def Fail(  # noqa: N802
        self,
        request: agent_pb2.FailRequest,
        context: Context,  # noqa: ARG002
    ) -> agent_pb2.FailResponse:
        key = ObjectId(request.object.kind, request.object.name)
        waited = self._residency.fail(key, request.reason)
        if waited and key == blob(key.name):
            # Whoever opened the file cannot be told; going on, it would read zeros.
            lost = f"blob {key.name} cannot be had: {request.reason}"
            self._events.publish(agent_pb2.Event(lost=lost))
        return agent_pb2.FailResponse(waited=waited)

    async def Capture(  # noqa: N802
        self, request: agent_pb2.CaptureRequest, context: Context
    ) -> AsyncIterator[agent_pb2.CaptureEvent]:
        async with statuses(context), aclosing(self._captures.run(request)) as events:
            async for event in events:
                yield event

    async def ReleasePack(  # noqa: N802
        self, request: agent_pb2.ReleasePackRequest, context: Context
    ) -> agent_pb2.ReleasePackResponse:
        async with statuses(context):
            await self._packer.release(Path(request.path))
            return agent_pb2.ReleasePackResponse()

    async def Forget(  # noqa: N802
        self, request: agent_pb2.ForgetRequest, context: Context
    ) -> agent_pb2.ForgetResponse:
        async with statuses(context):
            await self._packer.forget(request.chunk_digests)
            return agent_pb2.ForgetResponse()

    async def Freeze(  # noqa: N802
        self,
        request: agent_pb2.FreezeRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> agent_pb2.State:
        await self._gate.close()
        try:
            await self._snapshotter.settle()
            return self._state()
        except BaseException:
            # Who does not get the state does not thaw either.
            self._gate.open()
            raise

    async def Thaw(  # noqa: N802
        self,
        request: agent_pb2.ThawRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> agent_pb2.ThawResponse:
        self._gate.open()
        return agent_pb2.ThawResponse()

    async def Inspect(  # noqa: N802
        self,
        request: agent_pb2.InspectRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> agent_pb2.State:
        return self._state()

    def _state(self) -> agent_pb2.State:
        for digest in self._blobs.sweep():
            self._residency.forget(blob(digest))
        return state(self._snapshotter, self._residency, self._blobs)
