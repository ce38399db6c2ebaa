"""The sidecar's own connection to buildkitd's Control API, over a private Unix socket.

The socket is a second listener of the daemon: it needs no TLS, does not count as a
client of the endpoint, and cannot be reached from a RUN step's mount namespace.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from buildsvc._proto.moby.buildkit.v1 import control_pb2, control_pb2_grpc

#: The directories that clients have sent, in the words of BuildKit's record filters.
LOCAL_CONTEXTS = "type==source.local"
#: Seconds between two calls of ``version`` when a connection broke.
_AGAIN_AFTER = 0.02


@dataclass(frozen=True)
class BuildStarted:
    """A Solve that keeps a history record has begun."""

    ref: str


@dataclass(frozen=True)
class BuildFinished:
    """The Solve and its exports are over.

    Seconds are BuildKit's own; ``error`` is empty for a success, and where the daemon had no
    room to store it. ``made``: there is a result, which a success has unless its image is empty.
    """

    ref: str
    seconds: float
    steps_cached: int
    steps_total: int
    error: str
    made: bool = True


BuildEvent = BuildStarted | BuildFinished


class BuildKit:
    """Calls on one running buildkitd.

    Every method raises ``grpc.aio.AioRpcError`` when the daemon is gone; the
    lifecycle learns of a daemon's death from the guard, never from here.
    """

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix:{socket}",
            # The daemon is not there yet when the first call is made: look again soon.
            options=[
                ("grpc.initial_reconnect_backoff_ms", 20),
                ("grpc.min_reconnect_backoff_ms", 20),
                ("grpc.max_reconnect_backoff_ms", 50),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._stub = control_pb2_grpc.ControlStub(self._channel)

    async def version(self, timeout: float) -> str:
        """Wait up to ``timeout`` seconds for the daemon's answer and return its version.

        A call that was begun on the connection of a daemon that just died ends with it; it is
        made again, for the next daemon.
        """
        now = asyncio.get_running_loop().time
        until = now() + timeout
        while True:
            try:
                answer = await self._stub.Info(
                    control_pb2.InfoRequest(), timeout=until - now(), wait_for_ready=True
                )
            except grpc.aio.AioRpcError as problem:
                if problem.code() is not grpc.StatusCode.UNAVAILABLE or now() >= until:
                    raise
                await asyncio.sleep(_AGAIN_AFTER)
            else:
                return answer.buildkitVersion.version

    async def active_builds(self) -> frozenset[str]:
        """Refs of the builds under way at this moment, exports included."""
        request = control_pb2.BuildHistoryRequest(ActiveOnly=True, EarlyExit=True)
        return frozenset(
            [event.record.Ref async for event in self._stub.ListenBuildHistory(request)]
        )

    async def ended_builds(self) -> list[BuildFinished]:
        """Every ended build that the daemon remembers, those of earlier pods too."""
        request = control_pb2.BuildHistoryRequest(EarlyExit=True)
        return [
            _finished(event.record)
            async for event in self._stub.ListenBuildHistory(request)
            if event.type == control_pb2.COMPLETE
        ]

    async def builds(self) -> AsyncIterator[BuildEvent]:
        """Starts and ends of builds, from those under way now on."""
        request = control_pb2.BuildHistoryRequest(ActiveOnly=True)
        async for event in self._stub.ListenBuildHistory(request):
            if event.type == control_pb2.STARTED:
                yield BuildStarted(event.record.Ref)
            elif event.type == control_pb2.COMPLETE:
                yield _finished(event.record)

    async def prune(self, filters: Sequence[str] = (), max_used_space: int = 0) -> frozenset[str]:
        """Remove what matches one of the filters and is not in use; return the records' ids.

        With ``max_used_space`` (bytes), least recently used records go until the rest
        fits; without it everything that matches goes. buildkitd collects the snapshots'
        directories before it answers.

        Raises:
            ValueError: neither is given, which to buildkitd means the whole cache.
        """
        if not filters and not max_used_space:
            raise ValueError("a prune without a filter would remove the whole cache")
        request = control_pb2.PruneRequest(
            filter=list(filters), all=True, maxUsedSpace=max_used_space
        )
        return frozenset([record.ID async for record in self._stub.Prune(request)])

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()


def _finished(record: control_pb2.BuildHistoryRecord) -> BuildFinished:
    took = record.CompletedAt.ToNanoseconds() - record.CreatedAt.ToNanoseconds()
    failed = record.HasField("error")
    return BuildFinished(
        ref=record.Ref,
        seconds=max(took, 0) / 1e9,
        steps_cached=record.numCachedSteps,
        steps_total=record.numTotalSteps,
        error=(record.error.message or "failed") if failed else "",
        made=record.HasField("Result") or bool(record.Results),
    )
