"""The agent's command line and environment.

Apart from ``launch``, because the agent is started before most of the sidecar is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.paths import EpochPaths
from sidecar.settings import Settings


@dataclass(frozen=True)
class Command:
    """A program to start inside the namespace."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def agent_command(settings: Settings, environment: Mapping[str, str], paths: EpochPaths) -> Command:
    """Return how the agent of an epoch is started; the guard appends its own descriptor."""
    argv = (
        sys.executable,
        "-m",
        "sidecar.agent",
        f"--root={paths.snapshots}",
        f"--socket={paths.snapshots_socket}",
        f"--control={paths.agent_socket}",
        f"--staging={paths.staging}",
        f"--buildkit-root={paths.buildkit}",
        f"--workers={settings.unpack_workers}",
    )
    return Command(argv, environment)
