"""One epoch: a user namespace with its agent and daemon on one root, from start to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc.aio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.log import get_logger
from buildsvc.store.contract import Store
from sidecar import databases
from sidecar.agentclient import AgentClient
from sidecar.buildkit import BuildKit
from sidecar.builds import Builds
from sidecar.cachestore import UPLOADS
from sidecar.capture import LEFT_ALONE, Captures, Uploads
from sidecar.checkpoint import Checkpointer, Daemon
from sidecar.commands import agent_command
from sidecar.daemon import ANSWERS_WITHIN, Buildkitd, Lost
from sidecar.guardclient import AgentExited, DaemonExited, Namespace, NamespaceLostError, StartError
from sidecar.inherited import Inherited
from sidecar.launch import Launch
from sidecar.losses import Losses
from sidecar.paths import EpochPaths
from sidecar.plan import ObjectKey
from sidecar.room import Room
from sidecar.settings import Settings
from sidecar.status import Status
from sidecar.userns import EndedEarly

log = get_logger(__name__)

#: Seconds that the agent may take from its start to its first answer.
_AGENT_WITHIN = 20.0
#: Seconds for a build that lacked room to tell its client why, before its daemon goes.
_LAST_WORDS = 0.5


class Epoch:
    """Owns everything that belongs to one root.

    Used in this order: ``open``, beside it what is ``inherited`` (when there is something to
    restore), ``serving``, in it ``start_daemon``, ``close``.
    """

    def __init__(
        self,
        settings: Settings,
        paths: EpochPaths,
        namespace: Namespace,
        launch: Launch,
        room: Room,
        *,
        store: Store | None,
        status: Status,
        losses: Losses,
    ) -> None:
        """``losses``: what earlier epochs have found lost, and this one adds to."""
        self._settings = settings
        self._paths = paths
        self._namespace = namespace
        self._launch = launch
        self._room = room
        self._status = status
        self._agent = AgentClient(paths.agent_socket)
        self._api = BuildKit(paths.buildkit_socket)
        #: Resolves with the reason when the root must be given up.
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        #: Why that will be soon, so that nothing of the root may be published any more.
        self.doomed = ""
        self._died = False
        self.inherited = Inherited(
            settings, paths, self._agent, room, store=store, status=status, losses=losses,
            on_lost=self.lose,
        )  # fmt: skip
        self._builds = Builds(
            self._api, status, room, told=self._builds_run, lacked_room=self._lacked_room
        )
        #: For whoever decides about publishing.
        self.active_builds = self._builds.active
        self.finished = self._builds.finished
        self._watching: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()
        self._daemon = Buildkitd(
            namespace, launch.daemon(paths), launch.private(paths), self._api, status,
            nofsync=settings.nofsync, lost=self.lost,
        )  # fmt: skip
        self._store = store
        self._uploads: Uploads | None = None
        self._captures: Captures | None = None

    async def open(self) -> None:
        """Start the namespace and the agent.

        Raises:
            EnvironmentUnfit: rootless containers do not work here; the text says what is missing.
            EndedEarly: namespace or agent ended, and nobody said why.
        """
        await self._namespace.start()
        self._watching = asyncio.create_task(self._watch_namespace(), name="namespace events")
        agent = agent_command(self._settings, self._launch.environment, self._paths)
        answering = asyncio.ensure_future(self._agent.ready(_AGENT_WITHIN))
        try:
            await self._namespace.start_agent(agent.argv, agent.environment)
            ends: list[asyncio.Future[Any]] = [answering, self.lost]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not self.lost.done():
                await answering
        except (grpc.aio.AioRpcError, NamespaceLostError, StartError) as problem:
            raise _no_agent(str(problem)) from problem
        finally:
            answering.cancel()
        if self.lost.done():
            raise _no_agent(self.lost.result())

    async def start_daemon(self) -> None:
        """Start buildkitd on the root and wait for its answer.

        Raises:
            Lost: it does not answer, or exits.
        """
        if self.inherited.unfit:
            await self._daemon.forget(self.inherited.unfit)
        # What a client builds before the daemon's first answer is not among them.
        earlier = await asyncio.to_thread(databases.remembered_builds, self._paths.buildkit)
        self._builds.pass_over(earlier)
        await self._daemon.start()
        # On a disk without that room the first checkpoint says so.
        with suppress(OSError):
            await asyncio.to_thread(databases.reserve, self._paths.buildkit)
        self._answered.set()

    @property
    def died(self) -> bool:
        """Whether something of it was killed, which says nothing about the daemon."""
        return self._died or self._daemon.killed

    @property
    def admitted(self) -> bool:
        """Whether the daemon has answered, so that clients may depend on it."""
        return self._answered.is_set()

    async def idle(self) -> None:
        """Wait until no build is under way."""
        ended = 0
        while await self.active_builds():
            ended += len(self.finished.after(ended))
            await self.finished.next(ended)

    def lose(self, reason: str) -> None:
        """Give the root up."""
        if not self.lost.done():
            self.lost.set_result(reason)

    def _builds_run(self, count: int) -> None:
        self.inherited.builds_run(count)
        if self._captures is not None:
            self._captures.builds_run(running=count > 0)

    def _dies(self, reason: str) -> None:
        self._died = self._died or not self.lost.done()
        self.lose(reason)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Run everything that goes on beside builds."""
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(self._keep_daemon(), name="daemon restarts"),
                tasks.create_task(self._watch_agent(), name="agent events"),
                tasks.create_task(self._watch_builds(), name="builds"),
                tasks.create_task(self._builds.look_after(), name="ends of builds"),
            ]
            if (restoring := self.inherited.task) is not None:
                running.append(tasks.create_task(_awaited(restoring), name="restore"))
                running.append(tasks.create_task(self.inherited.hold(), name="lease"))
                running.append(tasks.create_task(self._drop_lost(), name="losses"))
            if self._store is not None and self._settings.publish != "never":
                self._uploads = Uploads(
                    self._store, self._agent, self.inherited.catalog, self._status, UPLOADS,
                    collection=self.inherited.collection,
                )  # fmt: skip
                # Whatever is left for the end has the grace period at most.
                left_alone = min(LEFT_ALONE, self._settings.grace)
                self._captures = Captures(self._agent, self._uploads, left_alone=left_alone)
                running.append(tasks.create_task(self._uploads.learn(), name="collections"))
                running.append(tasks.create_task(self._captures.run(), name="capture"))
            try:
                yield
            finally:
                for task in running:
                    task.cancel()
                if self._captures is not None:
                    await self._captures.close()

    def checkpointer(self) -> Checkpointer:
        """Return what takes pictures of this epoch; only while serving with a store."""
        assert self._captures is not None
        assert self._uploads is not None
        return Checkpointer(
            Daemon(self._daemon.pid, self._paths.buildkit, self._api),
            self._agent,
            self._captures,
            self._uploads,
            end_strays=self._namespace.end_strays,
            restored=self.inherited.root,
            losses=self.inherited.losses,
            scratch=self._paths.scratch,
            max_used_space=self._launch.max_used_space,
            exclude=self._settings.exclude_mount,
        )

    def collected(self, packs: frozenset[bytes], collection: int) -> None:
        """Take packs as lost that this collection of the store may delete; only while serving."""
        assert self._uploads is not None
        self._uploads.collection = max(self._uploads.collection, collection)
        self.inherited.losses.packs |= packs

    @property
    def uploaded(self) -> tuple[int, int]:
        """Packs that this epoch has put into the store, and their bytes."""
        return (self._uploads.packs, self._uploads.bytes) if self._uploads else (0, 0)

    async def close(self, grace: float) -> None:
        """Stop the daemon within ``grace`` seconds, then agent and namespace."""
        await self.inherited.close()
        await self._api.close()
        if self._daemon.pid and not self.lost.done():
            with suppress(NamespaceLostError, StartError):
                await self._namespace.stop_daemon(grace)
        await self._namespace.close()
        if self._watching is not None:
            await self._watching
        await self._agent.close()
        # Nobody else tells of builds that ran when a root was lost, or the time was over.
        self._builds.died()

    async def _watch_namespace(self) -> None:
        async for event in self._namespace.events():
            if isinstance(event, AgentExited):
                self._dies("the agent died")
            elif isinstance(event, DaemonExited) and not event.asked:
                self._daemon.exited(event.status)
        self._dies("the namespace ended")

    async def _keep_daemon(self) -> None:
        await self._answered.wait()
        try:
            await self._daemon.keep(self._builds.died)
        except Lost as lost:
            self.lose(str(lost))

    async def _drop_lost(self) -> None:
        await self._answered.wait()
        await self.inherited.drop_lost(self._api)

    async def _watch_agent(self) -> None:
        try:
            async for event in self._agent.events():
                self._agent_event(event)
        except grpc.aio.AioRpcError:
            self._dies("the agent died")

    def _agent_event(self, event: agent_pb2.Event) -> None:
        match event.WhichOneof("event"):
            case "demand":
                self.inherited.demand(ObjectKey.from_proto(event.demand))
            case "committed" if self._captures is not None:
                self._captures.committed(event.committed)
            case "use":
                self._status.used(event.use.object.name, event.use.waited)
            case "lost":
                self.lose(event.lost)

    async def _watch_builds(self) -> None:
        """Follow starts and ends of builds, also over restarts of the daemon."""
        await self._answered.wait()
        while True:
            await self._builds.follow()
            # The guard says whether the daemon is gone; the next call waits for it.
            await self._answers_again()

    async def _answers_again(self) -> None:
        try:
            await self._api.version(ANSWERS_WITHIN)
        except grpc.aio.AioRpcError:
            self.lose("buildkitd does not answer any more")
            await asyncio.Event().wait()

    def _lacked_room(self) -> str:
        """Give the root up if the cache has a part of it; why, if so."""
        if self.inherited.root is None:
            return ""
        self.doomed = "a build failed on a full disk, of which the cache has a part"
        asyncio.get_running_loop().call_later(_LAST_WORDS, self.lose, self.doomed)
        return self.doomed


async def _awaited(task: asyncio.Task[None]) -> None:
    """Take part in the task's end: its failure is raised, and a cancellation ends it."""
    await task


def _no_agent(reason: str) -> EndedEarly:
    return EndedEarly(
        "the agent does not start",
        expected=f"an answer within {_AGENT_WITHIN:g} s",
        found=reason,
        advice="see logs/daemon.log in the root",
    )
