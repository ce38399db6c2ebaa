"""The sidecar's root directory: one sidecar at a time, nothing of an earlier one reused."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from buildsvc.errors import CannotCreate, RootInUse

#: Seconds that an earlier sidecar's guard may take to end its namespace.
_LEFT_OVER_WITHIN = 20.0
_LOOK_EVERY = 0.05


@dataclass(frozen=True)
class RootDirectory:
    """The locked directory; ``namespace_lock`` goes to the guard, which outlives a sidecar."""

    path: Path
    namespace_lock: int


@asynccontextmanager
async def locked(path: Path, stop: asyncio.Event) -> AsyncIterator[RootDirectory]:
    """Create the directory and hold its locks.

    Raises:
        CannotCreate: it cannot be created or written.
        RootInUse: another sidecar works in it, or an earlier one's namespace does not end
            in time, or before ``stop`` is set.
    """
    try:
        await asyncio.to_thread(path.mkdir, mode=0o700, parents=True, exist_ok=True)
        sidecar = await asyncio.to_thread(_open, path / "sidecar.lock")
        namespace = await asyncio.to_thread(_open, path / "namespace.lock")
    except OSError as problem:
        raise CannotCreate(
            f"the root directory {path} cannot be used",
            expected="a directory that this user can write",
            found=problem.strerror or str(problem),
            advice="choose another with --root, or make room",
        ) from problem
    try:
        if not _try_lock(sidecar):
            raise RootInUse(
                f"another sidecar works in {path}",
                expected="a root of its own for each sidecar",
                advice="stop it, or choose another directory with --root",
            )
        await _wait_for_namespace(path, namespace, stop)
        yield RootDirectory(path, namespace)
    finally:
        os.close(sidecar)
        os.close(namespace)


async def _wait_for_namespace(path: Path, lock: int, stop: asyncio.Event) -> None:
    """Wait for the guard of a killed sidecar; flock(2) cannot be awaited with a time-out."""
    now = asyncio.get_running_loop().time
    deadline = now() + _LEFT_OVER_WITHIN
    while not _try_lock(lock):
        if now() > deadline or stop.is_set():
            raise RootInUse(
                f"processes of an earlier sidecar still work in {path}",
                advice="end its rootlesskit process, or choose another directory with --root",
            )
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_EVERY)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def sweep(rootlesskit: Path, directories: Sequence[Path], environment: dict[str, str]) -> int:
    """Delete what earlier epochs left; return the exit status.

    Their files belong to other uids of the user namespace, so the deletion runs in one,
    at the lowest priority: a build may be waiting for the same disk.
    """
    names = [str(directory) for directory in directories]
    child = await asyncio.create_subprocess_exec(
        "nice", "-n", "19", str(rootlesskit), "rm", "-rf", "--one-file-system", *names,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip
    try:
        return await child.wait()
    except asyncio.CancelledError:
        child.terminate()
        await child.wait()
        raise
