"""Versions of the builders that buildsvc is compared with, and of what serves them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping

from perf.host import TOOLS, PerfError, output

_BUILT: Mapping[str, tuple[str, str, str]] = {
    "kaniko": ("executor", "peers/kaniko", "github.com/GoogleContainerTools/kaniko"),
    "dockerd": ("dockerd", "peers/dockerd", "github.com/moby/moby/v2"),
    "dockerd's containerd": (
        "containerd",
        "peers/containerd",
        "github.com/containerd/containerd/v2",
    ),
    "buildx": ("buildx", "buildx", "github.com/docker/buildx"),
    "minio": ("minio", "minio", "github.com/minio/minio"),
}
"""The program, its directory below tools/, and its module: built so, none of them knows its own."""


def peers_versions() -> dict[str, str]:
    """Return those of what is here. Raises PerfError."""
    found = {
        name: _pinned(directory, module)
        for name, (program, directory, module) in _BUILT.items()
        if shutil.which(program)
    }
    if shutil.which("buildah"):
        found["buildah"] = output(["buildah", "--version"])
    return found


def _pinned(directory: str, module: str) -> str:
    path = TOOLS / directory / "go.mod"
    found = re.search(
        rf"^(?:require)?\s+{re.escape(module)} (v\S+)", path.read_text(), re.MULTILINE
    )
    if found is None:
        raise PerfError(f"{path} does not say which version of {module} is built")
    return found[1]
