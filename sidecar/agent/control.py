"""The part of the agent that serves the sidecar: workers, leases, the guard, and the Agent API."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc.aio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2, agent_pb2_grpc
from buildsvc.errors import ConfigError
from sidecar.agent.api import AgentService
from sidecar.agent.blobs import ContentBlobs
from sidecar.agent.core import AgentOptions, Core, Ending, serve
from sidecar.agent.guardlink import GuardLink
from sidecar.agent.leases import LeasedBlobs, break_time
from sidecar.agent.packing import PackerClient
from sidecar.agent.residency import blob
from sidecar.agent.workers import Unpackers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack

    from sidecar.agent.starting import Started

_MESSAGE_BYTES = 64 << 20
"""A state names every snapshot and blob."""
_GRACE = 0.5
"""Seconds that the sidecar's calls have to end; Watch never does by itself."""
_BLOB_THREADS = 2
_LOST_WITHIN = 1.0
"""Seconds from a lost root to the agent's end."""
_LOST = 70
"""Exit code when the root is lost; the guard kills buildkitd, whatever it is."""


async def serve_control(
    options: AgentOptions,
    core: Core,
    ending: Ending,
    stack: AsyncExitStack,
    spares: Sequence[Started] = (),
) -> None:
    """Serves on the control socket for as long as the stack lives.

    `spares` are workers that run already. Raises ConfigError when a directory is missing among the
    options, CannotCreate.
    """
    if options.control is None or options.staging is None or options.buildkit_root is None:
        raise ConfigError("--control needs --staging and --buildkit-root")

    def lost(reason: str) -> None:
        core.events.publish(agent_pb2.Event(lost=reason))
        ending.end(_LOST)
        # The kernel's clock runs: an orderly end may wait for the disk that caused this.
        asyncio.get_running_loop().call_later(_LOST_WITHIN, os._exit, _LOST)

    leased = None
    if options.guard_fd is not None:
        guard = GuardLink(options.guard_fd)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        watch = tasks.create_task(_watch(guard, ending), name="guard")
        stack.callback(watch.cancel)
        leased = LeasedBlobs(
            guard,
            lambda digest: core.residency.demand(blob(digest)),
            lost,
            break_time=await asyncio.to_thread(break_time),
        )
        stack.callback(leased.close)
    threads = ThreadPoolExecutor(_BLOB_THREADS, "blobs")
    stack.callback(threads.shutdown, wait=False)
    unpacker = await stack.enter_async_context(Unpackers(options.workers, spares))
    packs = options.staging / "up"
    await asyncio.to_thread(packs.mkdir, parents=True, exist_ok=True)
    packer = await stack.enter_async_context(PackerClient(packs))
    service = AgentService(
        snapshotter=core.snapshotter,
        residency=core.residency,
        events=core.events,
        gate=core.gate,
        unpacker=unpacker,
        packer=packer,
        blobs=ContentBlobs(options.buildkit_root, options.root / "blobs", leased, threads),
    )
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ]
    )
    agent_pb2_grpc.add_AgentServicer_to_server(service, server)
    await serve(server, options.control, stack, grace=_GRACE)


async def _watch(guard: GuardLink, ending: Ending) -> None:
    """Buildkitd is dead when the guard's end is noticed; then there is nobody left to serve."""
    await guard.gone()
    ending.end(_LOST)
