"""An agent that keeps what it is given in memory, behind the real API; and a generation for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import grpc.aio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2, agent_pb2_grpc
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks
from buildsvc.cache.catalog import BlobChunks, Catalog, SnapshotChunks, TreeChunks
from buildsvc.cache.packs import pack_name
from buildsvc.cache.trees import serialise
from buildsvc.store.contract import Store
from sidecar.agentclient import AgentClient
from tests.unit.cache.fakes import add_pack, info, make_tree, write_pack

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class FakeAgent(agent_pb2_grpc.AgentServicer):
    """Fills objects into ``filled``. A test sets what else is to happen."""

    def __init__(self) -> None:
        #: Bytes of each object's data chunks, in the order of their indices.
        self.filled: dict[str, bytes] = {}
        #: Names in the order in which their fills began.
        self.order: list[str] = []
        #: How often the chunks of an object are called corrupt before they are taken.
        self.corrupt: Counter[str] = Counter()
        #: Objects whose fill ends with an error.
        self.refused: set[str] = set()
        #: Objects that are not known any more when they are to be filled.
        self.removed: set[str] = set()
        #: Objects whose fill waits for the event.
        self.held: dict[str, asyncio.Event] = {}
        #: What Capture answers to each request, and the requests.
        self.captures: list[list[agent_pb2.CaptureEvent]] = []
        self.captured: list[agent_pb2.CaptureRequest] = []
        #: The capture with this number, from 0, breaks off after its events.
        self.breaks_at = -1
        self.released: list[str] = []
        self.forgotten: list[bytes] = []
        self.forget_fails = False
        #: Captures wait after their first event until a pack has been released: no room.
        self.full = False
        self.room = asyncio.Event()
        self.events: list[agent_pb2.Event] = []
        self.state = agent_pb2.State()
        #: Answers to Inspect in turn; then it is the state.
        self.states: list[agent_pb2.State] = []
        #: Answers to Freeze in turn; then it is the state.
        self.frozen_states: list[agent_pb2.State] = []
        #: Whether anybody waits for what fails, and that it has been asked.
        self.waited = True
        self.asked_who_waits = asyncio.Event()
        self.freeze_fails = False
        self.frozen = False
        self.thawed = 0

    async def Fill(  # noqa: N802  gRPC's name
        self, requests: AsyncIterator[agent_pb2.FillRequest], context: Context
    ) -> AsyncIterator[agent_pb2.FillResponse]:
        parts: dict[int, bytes] = {}
        name = tree = ""
        async for request in requests:
            if request.HasField("header"):
                tree = request.header.tree_path
                name = request.header.object.name
                self.order.append(name)
                if name in self.held:
                    await self.held[name].wait()
                if name in self.refused:
                    await context.abort(grpc.StatusCode.INTERNAL, "the disk is full")
                if name in self.removed:
                    await context.abort(grpc.StatusCode.NOT_FOUND, "it is not wanted any more")
                continue
            if request.WhichOneof("request") == "priority":
                continue
            path = Path(request.segment.path)
            data = path.read_bytes()
            path.unlink()
            if self.corrupt[name]:
                self.corrupt[name] -= 1
                bad = agent_pb2.CorruptChunks(
                    chunks=[each.chunk for each in request.segment.chunks]
                )
                yield agent_pb2.FillResponse(corrupt=bad)
            else:
                for each in request.segment.chunks:
                    stored = data[each.offset : each.offset + each.stored]
                    parts[each.chunk] = chunks.decode(stored, each.length, each.digest)
            yield agent_pb2.FillResponse(released=request.segment.path)
        if tree:
            Path(tree).unlink()
        self.filled[name] = b"".join(parts[number] for number in sorted(parts))
        yield agent_pb2.FillResponse(done=agent_pb2.FillDone(bytes=len(self.filled[name])))

    async def Capture(  # noqa: N802
        self, request: agent_pb2.CaptureRequest, context: Context
    ) -> AsyncIterator[agent_pb2.CaptureEvent]:
        number = len(self.captured)
        self.captured.append(request)
        for event in self.captures[number] if number < len(self.captures) else ():
            yield event
            if self.full:
                await self.room.wait()
        if number == self.breaks_at:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")

    async def ReleasePack(  # noqa: N802
        self, request: agent_pb2.ReleasePackRequest, _: Context
    ) -> agent_pb2.ReleasePackResponse:
        self.released.append(request.path)
        self.room.set()
        return agent_pb2.ReleasePackResponse()

    async def Forget(  # noqa: N802
        self, request: agent_pb2.ForgetRequest, context: Context
    ) -> agent_pb2.ForgetResponse:
        if self.forget_fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")
        self.forgotten.append(request.chunk_digests)
        return agent_pb2.ForgetResponse()

    async def Load(self, _: agent_pb2.LoadRequest, __: Context) -> agent_pb2.LoadResponse:  # noqa: N802
        return agent_pb2.LoadResponse()

    async def Watch(self, _: agent_pb2.WatchRequest, __: Context) -> AsyncIterator[agent_pb2.Event]:  # noqa: N802
        for event in self.events:
            yield event

    async def Fail(self, _: agent_pb2.FailRequest, __: Context) -> agent_pb2.FailResponse:  # noqa: N802
        self.asked_who_waits.set()
        return agent_pb2.FailResponse(waited=self.waited)

    async def Inspect(self, _: agent_pb2.InspectRequest, __: Context) -> agent_pb2.State:  # noqa: N802
        return self.states.pop(0) if self.states else self.state

    async def Freeze(self, _: agent_pb2.FreezeRequest, context: Context) -> agent_pb2.State:  # noqa: N802
        if self.freeze_fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "killed")
        self.frozen = True
        return self.frozen_states.pop(0) if self.frozen_states else self.state

    async def Thaw(self, _: agent_pb2.ThawRequest, __: Context) -> agent_pb2.ThawResponse:  # noqa: N802
        self.frozen = False
        self.thawed += 1
        return agent_pb2.ThawResponse()


@asynccontextmanager
async def connected(fake: FakeAgent, directory: Path) -> AsyncIterator[AgentClient]:
    """Serve the agent and return the sidecar's end."""
    server = grpc.aio.server()
    agent_pb2_grpc.add_AgentServicer_to_server(fake, server)
    server.add_insecure_port(f"unix:{directory}/agent.sock")
    await server.start()
    client = AgentClient(directory / "agent.sock")
    try:
        yield client
    finally:
        await client.close()
        await server.stop(None)


async def generation(
    store: Store,
    directory: Path,
    snapshots: Mapping[str, bytes],
    blobs: Mapping[str, bytes] | None = None,
    used: tuple[str, ...] = (),
) -> cache_pb2.Root:
    """Put a generation's packs into the store, each object in a pack of its own.

    A snapshot is one file of the given content; "b<a" is named b with the parent a.
    """
    catalog = Catalog()
    rows: list[SnapshotChunks] = []
    captured: list[BlobChunks] = []

    async def add(contents: list[bytes]) -> None:
        pack = write_pack(directory, contents)
        add_pack(catalog, pack)
        await store.put_file(pack_name(pack.digest), pack.path)

    for key, content in snapshots.items():
        name, _, parent = key.partition("<")
        tree = make_tree([(b"file", content)])
        stored = serialise(tree)
        await add([content, stored])
        rows.append(
            SnapshotChunks(
                info(name, parent), TreeChunks(chunks.digest(stored), tree.chunk_digests)
            )
        )
    for digest, content in (blobs or {}).items():
        await add([content])
        captured.append(BlobChunks(digest, len(content), 5, chunks.digest(content)))
    tree = make_tree([(b"cache.db", b"database" * 100)])
    await add([b"database" * 100, serialise(tree)])
    return catalog.build_root(
        snapshots=rows,
        blobs=captured,
        databases=TreeChunks(chunks.digest(serialise(tree)), tree.chunk_digests),
        trace=cache_pb2.Trace(used=list(used)),
        buildkit_version="v0.33.1",
        platform="linux/amd64",
        created_unix_ns=1,
    )
