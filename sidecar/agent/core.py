"""What the agent's process is built on: its options, the snapshotter, the way it ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc.aio

from buildsvc.errors import CannotCreate, RootInUse
from sidecar.agent import index_file
from sidecar.agent.directories import Directories
from sidecar.agent.events import Events
from sidecar.agent.gate import Gate
from sidecar.agent.index_file import IndexFile
from sidecar.agent.residency import Residency
from sidecar.agent.snapshotter import Snapshotter
from sidecar.agent.trash import Trash

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from pathlib import Path


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


@dataclass(frozen=True)
class Core:
    """What both services share."""

    snapshotter: Snapshotter
    residency: Residency
    events: Events
    gate: Gate


class Ending:
    """Why the process ends; the first reason counts."""

    def __init__(self) -> None:
        self._reason: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(self, code: int = 0) -> None:
        """Lets `wait` return."""
        if not self._reason.done():
            self._reason.set_result(code)

    async def wait(self) -> int:
        """The exit code, once there is one."""
        return await asyncio.shield(self._reason)


async def serve(
    server: grpc.aio.Server, socket: Path, stack: AsyncExitStack, *, grace: float
) -> None:
    """Serves on a Unix socket for as long as the stack lives.

    At its end, calls under way have `grace` seconds. Raises CannotCreate.
    """
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise CannotCreate(f"cannot listen on {socket}", found=str(error)) from error
    await server.start()
    stack.push_async_callback(server.stop, grace)


async def build_core(options: AgentOptions, stack: AsyncExitStack) -> Core:
    """The snapshotter on its root. Raises RootInUse, CannotCreate, EnvironmentUnfit."""
    lock = await asyncio.to_thread(_lock_root, options.root)
    stack.callback(os.close, lock)
    index = await asyncio.to_thread(index_file.load, options.root)
    writer = ThreadPoolExecutor(1, "index")
    stack.callback(writer.shutdown, wait=True)
    directories = Directories(options.root, Trash())
    stack.callback(directories.close)
    await directories.adopt({row.id for row in index.walk()})
    events = Events()
    core = Core(
        Snapshotter(
            index=index,
            file=IndexFile(options.root, index, writer),
            directories=directories,
            residency=(residency := Residency(events)),
            events=events,
            gate=(gate := Gate()),
        ),
        residency,
        events,
        gate,
    )
    stack.push_async_callback(core.snapshotter.close)
    return core


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
