"""Programs that a test runs to their end."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Seconds after which something is stuck; nothing here is a measurement.
PATIENCE = 60.0


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process' environment without settings meant for another sidecar."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BUILDSVC_")}
    return {**kept, **(extra or {})}


@dataclass(frozen=True)
class Finished:
    """A program that ended."""

    code: int
    out: str
    err: str


async def command(
    *argv: str | Path, env: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> Finished:
    """Run a program to its end; it is killed when that takes longer than anything here should."""
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(env),
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await child.communicate(stdin)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return Finished(
        child.returncode or 0, out.decode(errors="replace"), err.decode("utf-8", "replace")
    )


async def sidecar(*argv: str | Path, env: Mapping[str, str] | None = None) -> Finished:
    """Run one command of the sidecar to its end."""
    return await command(sys.executable, "-m", "sidecar", *argv, env=env)


async def remove(directory: Path) -> None:
    """Delete a directory that may hold files of subordinate users."""
    if directory.exists():
        await command("rootlesskit", "rm", "-rf", directory)
