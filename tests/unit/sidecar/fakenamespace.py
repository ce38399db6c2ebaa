"""A namespace without processes: its agent and its daemon are servers of this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import grpc.aio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2, agent_pb2_grpc
from buildsvc._proto.moby.buildkit.v1 import control_pb2_grpc
from sidecar.guardclient import (
    AgentExited,
    DaemonExited,
    DaemonStarted,
    Event,
    Namespace,
    NamespaceEnded,
    NamespaceLostError,
    StartError,
)
from sidecar.paths import EpochPaths
from tests.unit.sidecar.fakeagent import Context, FakeAgent
from tests.unit.sidecar.fakedaemon import FakeDaemon


class LivingAgent(FakeAgent):
    """One whose events come when a test says so, until it dies."""

    def __init__(self) -> None:
        super().__init__()
        self.happens: asyncio.Queue[agent_pb2.Event] = asyncio.Queue()
        #: What Load answers; with text here it fails instead.
        self.loaded = agent_pb2.LoadResponse()
        self.load_fails = ""

    async def Load(self, _: agent_pb2.LoadRequest, context: Context) -> agent_pb2.LoadResponse:  # noqa: N802
        if self.load_fails:
            await context.abort(grpc.StatusCode.DATA_LOSS, self.load_fails)
        return self.loaded

    async def Watch(self, _: agent_pb2.WatchRequest, __: Context) -> AsyncIterator[agent_pb2.Event]:  # noqa: N802
        while True:
            yield await self.happens.get()


class FakeNamespace(Namespace):
    """What happens to the real one, a test does with this one."""

    def __init__(self, paths: EpochPaths) -> None:
        self._paths = paths
        self.agent = LivingAgent()
        self.daemon = FakeDaemon()
        #: What it was asked, in order, and how each daemon was started.
        self.asked: list[str] = []
        self.commands: list[Sequence[str]] = []
        #: `start` waits for this.
        self.makes = asyncio.Event()
        self.makes.set()
        #: Whether the agent can be started, and whether it lives long enough to answer.
        self.agent_starts = True
        self.agent_answers = True
        #: What becomes of each daemon in turn: an exit status at its start, or an error; then
        #: and for None it answers.
        self.daemons: list[int | Exception | None] = []
        self._events_: asyncio.Queue[Event] = asyncio.Queue()
        self._servers: dict[str, grpc.aio.Server] = {}
        self._ended = False

    async def start(self) -> None:
        self.asked.append("start")
        await self.makes.wait()

    async def start_agent(
        self, argv: Sequence[str], env: Mapping[str, str], *, log: int | None = None
    ) -> int:
        del argv, env, log
        self.asked.append("start-agent")
        if not self.agent_starts:
            raise StartError("start-agent: no such program")
        if not self.agent_answers:
            self.ends(AgentExited(1))
            return 11
        server = grpc.aio.server()
        agent_pb2_grpc.add_AgentServicer_to_server(self.agent, server)
        server.add_insecure_port(f"unix:{self._paths.agent_socket}")
        await server.start()
        self._servers["agent"] = server
        return 11

    async def start_daemon(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        nofsync: bool,
        log: int | None = None,
    ) -> DaemonStarted:
        del env, nofsync, log
        self.asked.append("start-daemon")
        self.commands.append(argv)
        if self._ended:
            raise NamespaceLostError("the user namespace has ended")
        end = self.daemons.pop(0) if self.daemons else None
        if isinstance(end, Exception):
            raise end
        if end is not None:
            self._events_.put_nowait(DaemonExited(end, asked=False))
            return DaemonStarted(12, "")
        server = grpc.aio.server()
        control_pb2_grpc.add_ControlServicer_to_server(self.daemon, server)
        server.add_insecure_port(f"unix:{self._paths.buildkit_socket}")
        await server.start()
        self._servers["daemon"] = server
        return DaemonStarted(12, "")

    async def stop_daemon(self, grace: float) -> int:
        self.asked.append(f"stop-daemon {grace:g}")
        await self._stop("daemon")
        self._events_.put_nowait(DaemonExited(0, asked=True))
        return 0

    async def events(self) -> AsyncIterator[Event]:
        while True:
            event = await self._events_.get()
            yield event
            if isinstance(event, NamespaceEnded):
                return

    async def close(self) -> None:
        self.asked.append("close")
        for name in list(self._servers):
            await self._stop(name)
        self.ends()

    async def daemon_dies(self, status: int = -9) -> None:
        """buildkitd alone."""
        self.daemon.died()
        await self._stop("daemon")
        self._events_.put_nowait(DaemonExited(status, asked=False))

    async def agent_dies(self) -> None:
        """The guard kills the daemon, then ends, and the namespace with it."""
        await self.daemon_dies()
        await self._stop("agent")
        self.ends(AgentExited(-9))

    def ends(self, *events: Event) -> None:
        """The namespace ends, after what the guard still tells."""
        for event in events:
            self._events_.put_nowait(event)
        if not self._ended:
            self._ended = True
            self._events_.put_nowait(NamespaceEnded(3 if events else 0, "", ()))

    async def _stop(self, name: str) -> None:
        if server := self._servers.pop(name, None):
            await server.stop(None)
