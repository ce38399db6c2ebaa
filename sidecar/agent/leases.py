"""Content blobs that are there before their bytes are: empty files under a write lease.

The kernel blocks every open(2) of such a file, sends SIGIO to the lease's holder, and lets the
opener go on when the lease is given back, or, whether there are bytes or not, after
`lease-break-time` seconds. Source: fcntl(2), F_SETLEASE.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

LIMIT = 35.0
"""Seconds in which a broken lease must be served, at most."""
MARGIN = 10.0
"""Seconds before the kernel gives up in which buildkitd must be dead."""
RESERVE = 1024
"""Descriptors left for everything else in the agent."""
MODE = 0o444
"""Permissions that containerd gives a committed blob."""
_BREAK_TIME = Path("/proc/sys/fs/lease-break-time")


class DescriptorHolder(Protocol):
    """Keeps copies of descriptors that outlive this process."""

    def hold(self, identifiers: Sequence[int], descriptors: Sequence[int]) -> None: ...

    def drop(self, identifiers: Sequence[int]) -> None: ...


@dataclass(frozen=True)
class Blob:
    """A blob to place: final size in bytes, modification time in ns since 1970."""

    digest: str
    path: Path
    size: int
    mtime_ns: int


@dataclass
class _Leased:
    blob: Blob
    descriptor: int
    expiry: asyncio.TimerHandle | None = None


class LeasedBlobs:
    """The leases of one agent. Everything is called in the event loop's thread.

    `on_break(digest)` comes once for each blob that somebody waits for; then its bytes are written
    through `descriptor(digest)`, and `release(digest)` lets the opener go on. `on_lost(reason)`
    comes when a lease was not served in time, or had ended without us: buildkitd must be killed and
    its root thrown away.
    """

    def __init__(
        self,
        guard: DescriptorHolder,
        on_break: Callable[[str], None],
        on_lost: Callable[[str], None],
        *,
        break_time: float,
    ) -> None:
        self._guard = guard
        self._on_break = on_break
        self._on_lost = on_lost
        self._limit = max(0.0, min(LIMIT, break_time - MARGIN))
        self._leased: dict[str, _Leased] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Raises the descriptor limit and listens to SIGIO. In the main thread, in the loop."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGIO, self._scan)

    def close(self) -> None:
        """Stops listening. The leases stay until the process ends."""
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGIO)
            # The default is to end the process, and its leases with it.
            signal.signal(signal.SIGIO, signal.SIG_IGN)
        for leased in self._leased.values():
            if leased.expiry is not None:
                leased.expiry.cancel()

    def place(self, blobs: Iterable[Blob]) -> list[str]:
        """Creates the files, in directories that exist, and gives the guard its copies.

        Answers the digests for which no descriptor was left: they must be filled before buildkitd
        starts. Raises OSError: FileExistsError, or what the file system says of leases. Must be
        called after `start`, and before anybody can open the files.
        """
        room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE - len(self._leased)
        left_out: list[str] = []
        placed: list[_Leased] = []
        try:
            for blob in blobs:
                if len(placed) >= room:
                    left_out.append(blob.digest)
                else:
                    placed.append(_Leased(blob, _create(blob)))
            descriptors = [leased.descriptor for leased in placed]
            # A descriptor's number serves as its name: it is ours until after the drop.
            self._guard.hold(descriptors, descriptors)
        except BaseException:
            for leased in placed:
                # First the name: without its lease the file would be read as it is.
                leased.blob.path.unlink()
                os.close(leased.descriptor)
            raise
        self._leased.update((leased.blob.digest, leased) for leased in placed)
        return left_out

    def holds(self, digest: str) -> bool:
        """Whether the blob is there without its bytes."""
        return digest in self._leased

    def descriptor(self, digest: str) -> int:
        """Where the bytes are to be written with pwrite. Raises KeyError."""
        return self._leased[digest].descriptor

    def release(self, digest: str) -> None:
        """The blob is whole: openers go on. Raises KeyError for one not leased.

        Calls `on_lost` when the lease had ended before.
        """
        leased = self._leased.pop(digest)
        if self._overdue(leased):
            self._on_lost(f"blob {digest} came after its opener had stopped waiting")
        os.utime(leased.descriptor, ns=(leased.blob.mtime_ns, leased.blob.mtime_ns))
        try:
            fcntl.fcntl(leased.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            # EAGAIN: there is no lease any more. Somebody may have read what was not there yet.
            self._on_lost(f"the lease on blob {digest} had ended before its bytes were there")
        except PermissionError:
            # The file belongs to somebody else by now; then it ends with the last descriptor.
            pass
        self._give_back([leased])

    def sweep(self) -> list[str]:
        """Gives back the descriptors of blobs that were unlinked meanwhile; answers their digests.

        One that somebody waits for stays, since its opener still wants the bytes.
        """
        gone = [
            leased
            for leased in self._leased.values()
            if leased.expiry is None
            and os.fstat(leased.descriptor).st_nlink == 0
            # Broken a moment ago, it may not have been scanned yet.
            and _intact(leased.descriptor)
        ]
        for leased in gone:
            del self._leased[leased.blob.digest]
        self._give_back(gone)
        return [leased.blob.digest for leased in gone]

    def pending(self) -> int:
        """How many leases are broken and not yet released."""
        return sum(leased.expiry is not None for leased in self._leased.values())

    def _give_back(self, leases: Sequence[_Leased]) -> None:
        # The guard's copies first: their names are free for others once ours are closed.
        self._guard.drop([leased.descriptor for leased in leases])
        for leased in leases:
            if leased.expiry is not None:
                leased.expiry.cancel()
            os.close(leased.descriptor)

    def _scan(self) -> None:
        """After SIGIO, which does not say whose: finds what was broken since the last one."""
        assert self._loop is not None
        for digest, leased in list(self._leased.items()):
            if leased.expiry is None and not _intact(leased.descriptor):
                leased.expiry = self._loop.call_later(self._limit, self._expired, digest)
                self._on_break(digest)

    def _overdue(self, leased: _Leased) -> bool:
        """Whether the timer was due and has not run: the process stood still, the kernel did not.

        What was broken for reading is a lease for readers after that, which ends without an error.
        """
        assert self._loop is not None
        return leased.expiry is not None and leased.expiry.when() <= self._loop.time()

    def _expired(self, digest: str) -> None:
        if digest in self._leased:
            self._on_lost(f"blob {digest} could not be had within {self._limit:g} s")


def break_time() -> float:
    """Seconds after which the kernel ends a lease that was broken and not given back."""
    return float(_BREAK_TIME.read_text())


async def probe(directory: Path, *, timeout: float = 5.0) -> str | None:
    """Why leases do not work in this directory; None when they do.

    Places a file, has another process open it, and sees it wait and then read the right bytes.
    Must be over before `LeasedBlobs.start`: it listens to SIGIO itself.
    """
    path = directory / f".lease-probe-{os.getpid()}"
    content = os.urandom(16)
    try:
        if break_time() <= MARGIN:
            return f"{_BREAK_TIME} is {break_time():g} s, too short to serve a broken lease"
        descriptor = _create(Blob("", path, len(content), 0))
    except OSError as error:
        return f"no write lease in {directory}: {error.strerror}"
    try:
        async with asyncio.timeout(timeout):
            read = await _read_through_lease(path, descriptor, content)
    except TimeoutError:
        return f"opening a leased file in {directory} was not noticed within {timeout:g} s"
    except OSError as error:
        return f"leases in {directory} cannot be tried: {error}"
    finally:
        os.close(descriptor)
        path.unlink()
    if read != content:
        return f"a leased file in {directory} was read without its bytes"
    return None


async def _read_through_lease(path: Path, descriptor: int, content: bytes) -> bytes:
    """What another process reads from the file when `content` is written after it asked."""
    loop = asyncio.get_running_loop()
    broken = asyncio.Event()
    loop.add_signal_handler(signal.SIGIO, broken.set)
    opener = await asyncio.create_subprocess_exec("cat", str(path), stdout=asyncio.subprocess.PIPE)
    try:
        await broken.wait()
        os.pwrite(descriptor, content, 0)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        return (await opener.communicate())[0]
    finally:
        if opener.returncode is None:
            opener.kill()
            await opener.wait()
        loop.remove_signal_handler(signal.SIGIO)


def _create(blob: Blob) -> int:
    """An empty file of the final size, and a descriptor with a write lease on it."""
    descriptor = os.open(blob.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, blob.size)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        os.fchmod(descriptor, MODE)
        os.utime(descriptor, ns=(blob.mtime_ns, blob.mtime_ns))
    except BaseException:
        os.close(descriptor)
        blob.path.unlink()
        raise
    return descriptor


def _intact(descriptor: int) -> bool:
    return fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == fcntl.F_WRLCK
