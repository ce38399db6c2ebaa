"""What a sidecar does before it imports the most of itself: it has a namespace made."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from buildsvc.log import get_logger
from sidecar import rootdir
from sidecar.agent.routes import METADATA
from sidecar.commands import agent_command
from sidecar.environment import allowed
from sidecar.guardclient import Namespace
from sidecar.paths import EpochPaths, epoch_paths, left_over, next_number
from sidecar.room import Room
from sidecar.rootlesskit import NamespaceOptions
from sidecar.settings import Settings
from sidecar.userns import network_mode

log = get_logger(__name__)

Network = Literal["own", "host"]


@dataclass(frozen=True)
class Beginning:
    """A locked root and the first epoch in it.

    ``left`` is what earlier sidecars left. The namespace is being made, and the epoch's
    directories are; it is None where there is no room for them yet.
    """

    root: rootdir.RootDirectory
    left: tuple[Path, ...]
    number: int
    room: Room
    network: Network
    namespace: Namespace | None


async def begin(
    settings: Settings, root: rootdir.RootDirectory, listener: socket.socket
) -> Beginning:
    """Start the first epoch's namespace, with the agent in it. The caller closes the namespace.

    Raises:
        CannotCreate: the epoch's directories or its log cannot be made.
        EnvironmentUnfit: rootless containers cannot work here; the text says what is missing.
    """
    left = await asyncio.to_thread(left_over, root.path)
    number = next_number(left)
    paths = epoch_paths(root.path, number)
    network = await asyncio.to_thread(_network, settings)
    room = Room(root.path)
    if not room.has(0):
        # First what was left must go.
        return Beginning(root, tuple(left), number, room, network, None)
    with paths.making():
        await asyncio.to_thread(paths.make)
    namespace = Namespace(namespace_options(settings, root, listener, paths, network))
    agent = agent_command(settings, allowed(os.environ), paths)
    await namespace.begin(agent.argv, agent.environment)
    return Beginning(root, tuple(left), number, room, network, namespace)


def namespace_options(
    settings: Settings,
    root: rootdir.RootDirectory,
    listener: socket.socket,
    paths: EpochPaths,
    network: Network,
) -> NamespaceOptions:
    """Return how an epoch's namespace is to be made."""
    return NamespaceOptions(
        rootlesskit=str(settings.program("rootlesskit")),
        state_dir=paths.run / "rootlesskit",
        log=root.path / "logs" / "daemon.log",
        network=network,
        environment=allowed(os.environ),
        deny=(*METADATA, *settings.deny_cidr),
        listener=listener.fileno(),
        lock=root.namespace_lock,
    )


def _network(settings: Settings) -> Network:
    """Return where RUN steps' traffic goes; ``auto`` takes their own namespace where it works."""
    if settings.network == "slirp4netns":
        return "own"
    if settings.network == "host":
        return "host"
    found = network_mode(os.environ)
    if found.mode == "host":
        log.warning("RUN steps share the network of this pod", reason=found.reason)
    return found.mode
