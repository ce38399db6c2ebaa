"""The agent's process: builds the objects, serves until it is told to stop."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio

from buildsvc._proto.containerd.services.snapshots.v1 import snapshots_pb2_grpc
from buildsvc.errors import CannotCreate, RootInUse
from sidecar.agent import index_file
from sidecar.agent.directories import Directories
from sidecar.agent.events import Events
from sidecar.agent.gate import Gate
from sidecar.agent.index_file import IndexFile
from sidecar.agent.residency import Residency
from sidecar.agent.service import SnapshotsService
from sidecar.agent.snapshotter import Snapshotter
from sidecar.agent.trash import Trash

if TYPE_CHECKING:
    from pathlib import Path

_GRACE = 5.0
"""Seconds that calls under way have after SIGTERM."""


@dataclass(frozen=True)
class AgentOptions:
    """What the command line says. Only `root` and `socket`: a snapshotter that stands alone."""

    root: Path
    socket: Path
    control: Path | None = None
    staging: Path | None = None
    buildkit_root: Path | None = None
    guard_fd: int | None = None
    workers: int = 2


async def run_agent(options: AgentOptions) -> int:
    """Serves until SIGTERM or SIGINT; answers the exit code. Mounts stay for the next process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        await _serve_snapshots(options, stack)
        await stop.wait()
    return 0


async def _serve_snapshots(options: AgentOptions, stack: AsyncExitStack) -> Snapshotter:
    lock = await asyncio.to_thread(_lock_root, options.root)
    stack.callback(os.close, lock)
    index = await asyncio.to_thread(index_file.load, options.root)
    writer = ThreadPoolExecutor(1, "index")
    stack.callback(writer.shutdown, wait=True)
    directories = Directories(options.root, Trash())
    stack.callback(directories.close)
    await directories.adopt({row.id for row in index.walk()})
    events = Events()
    snapshotter = Snapshotter(
        index=index,
        file=IndexFile(options.root, index, writer),
        directories=directories,
        residency=Residency(events),
        events=events,
        gate=Gate(),
    )
    stack.push_async_callback(snapshotter.close)
    server = grpc.aio.server()
    snapshots_pb2_grpc.add_SnapshotsServicer_to_server(SnapshotsService(snapshotter), server)
    listen(server, options.socket)
    await server.start()
    stack.push_async_callback(server.stop, _GRACE)
    return snapshotter


def listen(server: grpc.aio.Server, socket: Path) -> None:
    """Binds a Unix socket. Raises CannotCreate."""
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise CannotCreate(f"cannot listen on {socket}", found=str(error)) from error


def _lock_root(root: Path) -> int:
    """Makes the root and takes it for this process. Answers the descriptor that holds the lock."""
    try:
        root.mkdir(mode=0o711, parents=True, exist_ok=True)
        descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotCreate(f"cannot use {root} as snapshot directory", found=str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RootInUse(
            f"another agent works in {root}", advice="give each agent a root of its own"
        ) from None
    return descriptor
