"""The sidecar's end of the agent's API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2, agent_pb2_grpc

#: Roots of large caches are files, but a State names every snapshot and blob.
_MESSAGE_BYTES = 64 << 20


class AgentClient:
    """Calls on the agent of one epoch. Its death ends every call with an ``AioRpcError``."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix:{socket}",
            options=[
                ("grpc.initial_reconnect_backoff_ms", 10),
                ("grpc.min_reconnect_backoff_ms", 10),
                ("grpc.max_reconnect_backoff_ms", 20),
                ("grpc.max_receive_message_length", _MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MESSAGE_BYTES),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._stub = agent_pb2_grpc.AgentStub(self._channel)

    async def ready(self, timeout: float) -> agent_pb2.State:
        """Wait up to ``timeout`` seconds for the agent to serve."""
        return await self._stub.Inspect(
            agent_pb2.InspectRequest(), timeout=timeout, wait_for_ready=True
        )

    async def load(self, request: agent_pb2.LoadRequest) -> agent_pb2.LoadResponse:
        """Lay restored state into the empty root."""
        return await self._stub.Load(request)

    async def events(self) -> AsyncIterator[agent_pb2.Event]:
        """Events from now on; one subscriber."""
        async for event in self._stub.Watch(agent_pb2.WatchRequest()):
            yield event

    def fill(self) -> grpc.aio.StreamStreamCall[agent_pb2.FillRequest, agent_pb2.FillResponse]:
        """Open the stream that puts one object on disk."""
        return self._stub.Fill()

    async def fail(self, object_id: agent_pb2.ObjectId, reason: str) -> bool:
        """Tell everybody who waits for the object that it cannot be had; whether anybody did."""
        request = agent_pb2.FailRequest(object=object_id, reason=reason)
        return bool((await self._stub.Fail(request)).waited)

    async def capture(
        self, request: agent_pb2.CaptureRequest
    ) -> AsyncIterator[agent_pb2.CaptureEvent]:
        """Pack what is named."""
        async for event in self._stub.Capture(request):
            yield event

    async def forget(self, chunk_digests: bytes) -> None:
        """Let the packer take chunks (32 bytes each, concatenated) as not stored."""
        await self._stub.Forget(agent_pb2.ForgetRequest(chunk_digests=chunk_digests))

    async def release_pack(self, path: Path) -> None:
        """Let the agent delete an uploaded pack."""
        await self._stub.ReleasePack(agent_pb2.ReleasePackRequest(path=str(path)))

    async def inspect(self) -> agent_pb2.State:
        """Return the agent's state without holding anything back."""
        return await self._stub.Inspect(agent_pb2.InspectRequest())

    async def freeze(self, timeout: float) -> agent_pb2.State:
        """Hold snapshot calls back and return the state of that instant.

        It takes at most ``timeout`` seconds; ``thaw`` afterwards, also when it fails.
        """
        return await self._stub.Freeze(agent_pb2.FreezeRequest(), timeout=timeout)

    async def thaw(self) -> None:
        """Let snapshot calls go on."""
        await self._stub.Thaw(agent_pb2.ThawRequest())

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()
