"""Versions of the builders that buildsvc is compared with, and of what serves them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from perf.host import PerfError, output

_COMMANDS: Mapping[str, Sequence[str]] = {
    "kaniko": ("executor", "version"),
    "dockerd": ("dockerd", "--version"),
    "containerd of dockerd": ("containerd", "--version"),
    "buildx": ("buildx", "version"),
    "buildah": ("buildah", "--version"),
    "minio": ("minio", "--version"),
}


def peers_versions() -> dict[str, str]:
    """Return those of what is here; the first line that each says. Raises PerfError."""
    found = {}
    for name, command in _COMMANDS.items():
        if shutil.which(command[0]):
            said = output(command).splitlines()
            if not said:
                raise PerfError(f"{name} does not say its version")
            found[name] = said[0]
    return found
