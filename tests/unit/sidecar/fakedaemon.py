"""A buildkitd that builds nothing, behind the real Control API."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import grpc.aio

from buildsvc._proto.moby.buildkit.v1 import control_pb2, control_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class FakeDaemon(control_pb2_grpc.ControlServicer):
    """Its history outlives its server, as the real one's outlives the process."""

    def __init__(self) -> None:
        #: Filters of what it was asked to prune, and whether it can.
        self.pruned: list[str] = []
        self.prune_fails = False
        #: So many times it uses what it is to prune; and each time that it is asked to.
        self.keeps = 0
        self.asked_to_prune = asyncio.Semaphore(0)
        #: Builds that end as soon as it has answered which ones are under way.
        self.ends_when_asked: list[str] = []
        self._active: dict[str, control_pb2.BuildHistoryRecord] = {}
        self._ended: list[control_pb2.BuildHistoryRecord] = []
        self._followers: list[asyncio.Queue[control_pb2.BuildHistoryEvent]] = []

    def begins(self, ref: str) -> None:
        """A client has sent a build."""
        record = control_pb2.BuildHistoryRecord(Ref=ref)
        record.CreatedAt.GetCurrentTime()
        self._active[ref] = record
        self._tell(control_pb2.STARTED, record)

    def ends(self, ref: str, error: str = "") -> None:
        """It is over."""
        record = self._active.pop(ref)
        record.CompletedAt.GetCurrentTime()
        if error:
            record.error.message = error
        self._ended.append(record)
        self._tell(control_pb2.COMPLETE, record)

    def forgets(self, ref: str) -> None:
        """It is over, and there was no room to store that."""
        del self._active[ref]

    def tells_again(self) -> None:
        """The last build's log is stored: buildkitd says a second time that it has ended."""
        self._tell(control_pb2.COMPLETE, self._ended[-1])

    def tells_late(self) -> None:
        """That the last build began is told after an answer has said that it ended."""
        self._tell(control_pb2.STARTED, self._ended[-1])

    def remembers(self, ref: str) -> None:
        """What an earlier pod built is in the restored history, with the time of its clock."""
        record = control_pb2.BuildHistoryRecord(Ref=ref)
        record.CompletedAt.FromMilliseconds(int((time.time() + 3600) * 1000))
        self._ended.append(record)

    def died(self) -> None:
        """The builds under way are gone without a word."""
        self._active.clear()

    def _tell(
        self,
        what: control_pb2.BuildHistoryEventType.ValueType,
        record: control_pb2.BuildHistoryRecord,
    ) -> None:
        for follower in self._followers:
            follower.put_nowait(_event(what, record))

    async def Info(  # noqa: N802  gRPC's name
        self, _: control_pb2.InfoRequest, __: Context
    ) -> control_pb2.InfoResponse:
        version = control_pb2.BuildkitVersion(version="v0.33.1")
        return control_pb2.InfoResponse(buildkitVersion=version)

    async def Prune(  # noqa: N802
        self, request: control_pb2.PruneRequest, context: Context
    ) -> AsyncIterator[control_pb2.UsageRecord]:
        self.pruned += request.filter
        self.asked_to_prune.release()
        if self.prune_fails:
            await context.abort(grpc.StatusCode.INTERNAL, "the disk is full")
        self.keeps -= 1
        if self.keeps >= 0:
            return
        for filter_ in request.filter:
            if filter_.startswith("id=="):
                yield control_pb2.UsageRecord(ID=filter_.removeprefix("id=="))

    async def ListenBuildHistory(  # noqa: N802
        self, request: control_pb2.BuildHistoryRequest, _: Context
    ) -> AsyncIterator[control_pb2.BuildHistoryEvent]:
        told = [_event(control_pb2.STARTED, record) for record in self._active.values()]
        if request.ActiveOnly:
            while self.ends_when_asked:
                self.ends(self.ends_when_asked.pop())
        else:
            told += [_event(control_pb2.COMPLETE, record) for record in self._ended]
        following: asyncio.Queue[control_pb2.BuildHistoryEvent] = asyncio.Queue()
        if not request.EarlyExit:
            self._followers.append(following)
        try:
            for event in told:
                yield event
            while not request.EarlyExit:
                yield await following.get()
        finally:
            if following in self._followers:
                self._followers.remove(following)


def _event(
    what: control_pb2.BuildHistoryEventType.ValueType, record: control_pb2.BuildHistoryRecord
) -> control_pb2.BuildHistoryEvent:
    return control_pb2.BuildHistoryEvent(type=what, record=record)
