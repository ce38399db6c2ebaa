"""What is built: contexts on a base that needs no registry."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

BASE = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
"""


def context(
    directory: Path, dockerfile: str, files: Mapping[str, str | bytes] | None = None
) -> Path:
    """Write a build context with busybox in it and return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    busybox = directory / "busybox"
    if not busybox.exists():
        found = shutil.which("busybox")
        assert found, "there is no busybox (package busybox-static)"
        shutil.copy(found, busybox)
    (directory / "Dockerfile").write_text(dockerfile)
    write(directory, files or {})
    return directory


def write(directory: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files below a directory."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
