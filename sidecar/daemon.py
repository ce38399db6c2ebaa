"""buildkitd on one root: its start, and its further starts when it ends by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio

from sidecar.buildkit import LOCAL_CONTEXTS, BuildKit
from sidecar.commands import Command
from sidecar.guardclient import Namespace, NamespaceLostError, StartError
from sidecar.status import Status
from sidecar.timeline import Kind

#: Seconds within which a daemon answers. It takes 0.4 s on restored databases; one that
#: does not answer is thrown away while clients still wait.
ANSWERS_WITHIN = 10.0
#: Exits of the daemon alone that are answered by starting it again on the same root.
_RESTARTS = 2
#: Seconds that one without clients may take to end.
_STOPS_WITHIN = 5.0


class Lost(Exception):
    """The epoch's root must be thrown away; the text says why."""


class _Exited(Lost):
    """The daemon ended before it answered."""

    def __init__(self, status: int) -> None:
        super().__init__(f"buildkitd ended with status {status} at its start")
        self.status = status


class Buildkitd:
    """The daemon of one epoch. ``lost`` resolves when the epoch's root must be given up."""

    def __init__(
        self,
        namespace: Namespace,
        command: Command,
        private: Command,
        api: BuildKit,
        status: Status,
        *,
        nofsync: bool,
        lost: asyncio.Future[str],
    ) -> None:
        """``private`` starts it where no client reaches it."""
        self._namespace = namespace
        self._command = command
        self._private = private
        self._api = api
        self._status = status
        self._nofsync = nofsync
        self._lost = lost
        self._exits: asyncio.Queue[int] = asyncio.Queue()
        #: 0 before its first start.
        self.pid = 0
        #: Whether it was killed before it answered, which says nothing about its root.
        self.killed = False

    def exited(self, status: int) -> None:
        """It ended by itself; negative for a signal."""
        self._exits.put_nowait(status)

    async def forget(self, records: Sequence[str]) -> None:
        """Have it drop the records, and the snapshots that are theirs, before it has clients.

        Raises:
            Lost: it does not answer, exits, or cannot drop them.
        """
        dropped = await self._without([f"id=={record}" for record in records])
        self._status.dropped(len(dropped))

    async def _without(self, filters: Sequence[str]) -> frozenset[str]:
        """Drop what matches while no client reaches it: one that waits would be served from it."""
        await self.start(self._private)
        try:
            async with asyncio.timeout(ANSWERS_WITHIN):
                dropped = await self._api.prune(filters)
            await self._namespace.stop_daemon(_STOPS_WITHIN)
        except (TimeoutError, grpc.aio.AioRpcError, NamespaceLostError, StartError) as problem:
            raise Lost(f"what is lost cannot be dropped from the cache: {problem!r}") from problem
        self.pid = 0
        return dropped

    async def start(self, command: Command | None = None) -> None:
        """Start it on the root and wait for its answer.

        Raises:
            Lost: it does not answer, or exits.
        """
        span = self._status.begin(Kind.DAEMON, "buildkitd")
        answering = asyncio.ensure_future(self._api.version(ANSWERS_WITHIN))
        exiting = asyncio.ensure_future(self._exits.get())
        try:
            run = command or self._command
            started = await self._namespace.start_daemon(
                run.argv, run.environment, nofsync=self._nofsync
            )
            self.pid = started.pid
            ends: list[asyncio.Future[Any]] = [answering, exiting, self._lost]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if exiting.done():
                self.killed = exiting.result() < 0
                raise _Exited(exiting.result())
            if self._lost.done():
                raise Lost(self._lost.result())
            span.end(version=await answering)
        except (NamespaceLostError, StartError) as problem:
            self.killed = isinstance(problem, NamespaceLostError)
            raise Lost(str(problem)) from problem
        except grpc.aio.AioRpcError as problem:
            raise Lost("buildkitd did not answer in time") from problem
        finally:
            span.end("failed")
            answering.cancel()
            exiting.cancel()

    async def keep(self, ended: Callable[[], None]) -> None:
        """Start it again on the same root each time it ends, and ``ended`` is called then.

        Its databases survive a killed process. The directories that clients send do not: it writes
        their checksums down when it has all of one, so a file that was written just before its end
        would be taken for the one before, and what is made of it kept under a wrong key.

        Raises:
            Lost: it ended too often, or does not come back.
        """
        status = await self._exits.get()
        for _ in range(_RESTARTS):
            self._ended(ended)
            try:
                await self._without([LOCAL_CONTEXTS])
                await self.start()
            except _Exited as again:
                status = again.status
            else:
                status = await self._exits.get()
        self._ended(ended)
        raise Lost(f"buildkitd ended {_RESTARTS + 1} times, now with status {status}")

    def _ended(self, ended: Callable[[], None]) -> None:
        self._status.count("daemon_exits")
        ended()
