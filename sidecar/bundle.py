"""The debug bundle: what somebody who helps needs to know, without secrets."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from buildsvc.errors import CannotCreate, EnvironmentUnfit
from buildsvc.redact import redacted, redacted_text
from sidecar.settings import Settings
from sidecar.versions import version_text

# Of each log file; the end is what matters.
_LOG_BYTES = 8 * 1024 * 1024

# What decides whether a rootless daemon works here.
_KERNEL = (
    "/proc/sys/fs/lease-break-time",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/kernel/unprivileged_userns_clone",
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
    "/proc/self/uid_map",
    "/proc/self/limits",
    "/proc/self/mountinfo",
)
_PROGRAM_SECONDS = 5


def write_bundle(
    path: Path, settings: Settings, status: Mapping[str, Any] | None, recent: list[str]
) -> None:
    """Write a .tar.gz that only its owner can read.

    ``status`` is None, and ``recent`` log lines empty, when no sidecar answered. Blocks for some
    seconds. Raises CannotCreate.
    """
    made = time.time()
    members = {
        "versions.txt": _versions(settings),
        "settings.json": _json(
            {
                name: {"value": value, "origin": settings.origin(name)}
                for name, value in settings.shown().items()
            }
        ),
        "status.json": _json(status if status is not None else {"error": "no sidecar answered"}),
        "recent.log": "\n".join(recent) + "\n",
        "kernel.txt": _kernel(),
        "disk.txt": _disk(settings.root),
    }
    members |= _logs(settings.root / "logs")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name, text in members.items():
                content = redacted_text(text).encode()
                entry = tarfile.TarInfo(f"buildsvc-debug/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(made), 0o600
                tar.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise CannotCreate(
            f"cannot write the bundle {path}",
            expected="a new file in a directory with space",
            found=error.strerror or str(error),
            advice="choose another name with -o",
        ) from error


def _json(value: object) -> str:
    return json.dumps(redacted(value), indent=2) + "\n"


def _versions(settings: Settings) -> str:
    lines = [version_text(), f"python {platform.python_version()}", platform.platform(), ""]
    for name in ("buildkitd", "runc", "rootlesskit", "slirp4netns", "newuidmap"):
        try:
            program = settings.program(name)
        except EnvironmentUnfit as error:
            lines.append(f"{name}: {error}")
            continue
        # newuidmap has no such option.
        said = "" if name == "newuidmap" else f": {_said(program)}"
        lines.append(f"{program}{said}")
    return "\n".join(lines) + "\n"


def _said(program: Path) -> str:
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            timeout=_PROGRAM_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"cannot be run: {error}"
    return (done.stdout or done.stderr).strip().replace("\n", ", ")


def _kernel() -> str:
    parts = []
    for name in _KERNEL:
        try:
            text = Path(name).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            text = f"{error.strerror}\n"
        parts.append(f"== {name}\n{text}")
    return "\n".join(parts)


def _disk(root: Path) -> str:
    try:
        disk = os.statvfs(root)
        names = sorted(entry.name for entry in os.scandir(root))
    except OSError as error:
        return f"{root}: {error.strerror}\n"
    return (
        f"{root}: {disk.f_bavail * disk.f_frsize} of {disk.f_blocks * disk.f_frsize} bytes free, "
        f"{disk.f_favail} inodes free\n" + "\n".join(names) + "\n"
    )


def _logs(directory: Path) -> dict[str, str]:
    found = {}
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - _LOG_BYTES))
                    found[f"logs/{path.name}"] = file.read(_LOG_BYTES).decode(errors="replace")
    return found
