"""Snapshot directories: `<root>/<id>/{fs,tree,work,again,merged}`.

`fs` is the layer itself, `tree` what it was restored from, if others may be linked from it. An
active snapshot with a parent has an overlay at `merged`, mounted here once and volatile; who writes
to it gets a bind mount of that. Without it, every client's unmount would make the kernel sync the
upper file system, where restore has just written gigabytes. `work` is the overlay's, and `again`
that of a client that mounts one itself after ours has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from sidecar.agent import mounts
from sidecar.agent.usage import Usage, measure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sidecar.agent.trash import Trash

_T = TypeVar("_T")
_THREADS = 4

#: Work directories of overlays: of the first one, and of those that clients mount after it.
WORK, AGAIN = "work", "again"


class Directories:
    """The directories of one root and the overlays that are pinned in them."""

    def __init__(self, root: Path, trash: Trash) -> None:
        self._root = str(root)
        self._trash = trash
        # Directory names in calls are relative to the root: see own_working_directory.
        self._threads = ThreadPoolExecutor(
            _THREADS, "directories", mounts.own_working_directory, (self._root,)
        )
        self._pinned: set[int] = set()
        self._held: dict[int, int] = {}
        self._condemned: set[int] = set()

    def layer(self, number: int) -> str:
        """Absolute path of a layer."""
        return f"{self._root}/{number}/fs"

    def tree(self, number: int) -> str:
        """Absolute path of the file with the tree that a layer was restored from, if it is kept."""
        return f"{self._root}/{number}/tree"

    def merged(self, number: int) -> str:
        """Absolute path of the mount point of a pinned overlay."""
        return f"{self._root}/{number}/merged"

    def upper(self, number: int, work: str) -> list[str]:
        """Mount options for a client that mounts the overlay of this layer itself."""
        return [f"workdir={self._root}/{number}/{work}", f"upperdir={self.layer(number)}"]

    async def adopt(self, known: set[int]) -> None:
        """Takes over the mounts of an earlier process and throws away directories not `known`."""
        pinned, strange = await self._run(lambda: _survey(self._root, known))
        self._pinned = pinned
        for number in strange:
            await self.discard(number)

    async def discard_unknown(self, known: set[int]) -> None:
        """Throws away directories whose id is not `known`."""
        _, strange = await self._run(lambda: _survey(self._root, known))
        for number in strange:
            await self.discard(number)

    async def deleted(self) -> None:
        """Returns when everything thrown away so far is deleted."""
        await self._trash.emptied()

    async def create(self, number: int, owner: int | None, *, work: bool = False) -> None:
        """An empty layer, owned like the layer `owner`; with a work directory beside it."""
        await self._run(lambda: _make_layer(number, owner, work=work))

    async def begin(self, number: int) -> None:
        """A layer to be filled, empty or as an earlier attempt left it."""
        await self._run(lambda: os.makedirs(f"{number}/fs", exist_ok=True))

    async def pin(self, number: int, lower: Sequence[int], *, writable: bool) -> None:
        """Mounts the overlay of a snapshot unless it is mounted. Raises OSError."""
        if number in self._pinned:
            return
        await self._run(lambda: _mount(number, lower, writable=writable))
        self._pinned.add(number)

    async def unpin(self, number: int) -> None:
        """Unmounts the overlay; what it wrote is in the layer. Nothing to do when there is none."""
        if number not in self._pinned:
            return
        await self._run(lambda: _unmount(number))
        self._pinned.discard(number)

    async def hand_over(self, number: int) -> None:
        """Ends the overlay and makes a work directory for clients' own. Raises OSError."""
        await self._run(lambda: os.makedirs(f"{number}/{AGAIN}", 0o711, exist_ok=True))
        await self.unpin(number)

    async def discard(self, number: int) -> None:
        """Deletes a snapshot's directory in the background, or when the last hold is dropped."""
        await self._run(lambda: mounts.unmount(f"{number}/merged"))
        self._pinned.discard(number)
        if number in self._held:
            self._condemned.add(number)
        else:
            self._trash.throw(f"{self._root}/{number}")

    def hold(self, number: int) -> None:
        """Keeps the directory, its snapshot removed or not, until `drop` is called as often."""
        self._held[number] = self._held.get(number, 0) + 1

    def drop(self, number: int) -> None:
        """Ends a `hold`."""
        self._held[number] -= 1
        if self._held[number]:
            return
        del self._held[number]
        if number in self._condemned:
            self._condemned.discard(number)
            self._trash.throw(f"{self._root}/{number}")

    async def measure(self, number: int) -> Usage:
        """Disk usage of a layer. Raises OSError."""
        return await self._run(lambda: measure(f"{number}/fs"))

    def close(self) -> None:
        """Ends the threads; mounts stay."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


def _make_layer(number: int, owner: int | None, *, work: bool) -> None:
    os.mkdir(f"{number}", 0o700)
    layer = f"{number}/fs"
    os.mkdir(layer)
    # Apart from mkdir, because the umask has no say in it.
    os.chmod(layer, 0o755)  # noqa: S103 - containerd's mode for a layer
    if owner is not None:
        stat = os.lstat(f"{owner}/fs")
        os.chown(layer, stat.st_uid, stat.st_gid, follow_symlinks=False)
    if work:
        os.mkdir(f"{number}/{WORK}", 0o711)


def _mount(number: int, lower: Sequence[int], *, writable: bool) -> None:
    layers = [f"{layer}/fs" for layer in lower]
    target, work = f"{number}/merged", f"{number}/{WORK}"
    os.makedirs(target, 0o755, exist_ok=True)
    if not writable:
        mounts.mount_overlay(mounts.Overlay(layers), target)
        return
    # The work directory of a volatile overlay carries a marker against a second mount, meant for
    # the case that the machine crashed. Here only a process can have ended in between.
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(work)
    os.mkdir(work, 0o711)
    mounts.mount_overlay(mounts.Overlay(layers, f"{number}/fs", work), target)


def _unmount(number: int) -> None:
    # Who still uses the overlay keeps it alive and needs its work directory: that stays until
    # the snapshot is removed.
    mounts.unmount(f"{number}/merged")
    # Who comes too late finds nothing, which is an error, and not an empty directory.
    with contextlib.suppress(OSError):
        os.rmdir(f"{number}/merged")


def _survey(root: str, known: set[int]) -> tuple[set[int], set[int]]:
    """Known ids whose overlay is mounted, and ids of directories that are not known."""
    points = mounts.mount_points(os.path.realpath(root))
    real = os.path.realpath(root)
    pinned = {number for number in known if f"{real}/{number}/merged" in points}
    found = {int(name) for name in os.listdir(root) if name.isdecimal()}
    return pinned, found - known
