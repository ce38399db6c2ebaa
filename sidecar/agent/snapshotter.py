"""The snapshotter: what containerd's Snapshots API means, apart from gRPC.

Life of a snapshot, as in containerd: `prepare` makes a writable one under a key, `commit` ends it
and gives its content a name; from then on it is immutable and others are prepared or viewed on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar.agent import filters
from sidecar.agent.directories import AGAIN, WORK
from sidecar.agent.index import FailedPrecondition, InvalidArgument, Kind, Row, SnapshotIndex
from sidecar.agent.residency import Residency, snapshot
from sidecar.agent.shapes import Mount, Shapes, fits
from sidecar.agent.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence

    from sidecar.agent.directories import Directories
    from sidecar.agent.events import Events
    from sidecar.agent.gate import Gate
    from sidecar.agent.index_file import IndexFile

_T = TypeVar("_T")


class Snapshotter:
    """One root's snapshots. Calls raise SnapshotError, and OSError when the disk refuses.

    A call that changes something runs to its end once it has begun, also when its caller is gone.
    """

    def __init__(
        self,
        *,
        index: SnapshotIndex,
        file: IndexFile,
        directories: Directories,
        residency: Residency,
        events: Events,
        gate: Gate,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._index = index
        self._file = file
        self._directories = directories
        self._shapes = Shapes(directories)
        self._residency = residency
        self._events = events
        self._gate = gate
        self._now_ns = now_ns
        self._changing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._measuring: dict[int, asyncio.Task[Usage]] = {}
        self._doubtful: dict[str, Row] = {}
        """By the name of a committed one that nobody has named since: the active one it was."""
        self._unasked: set[int] = set()
        """Ids of active snapshots whose mounts nobody has asked for since they were prepared."""
        self.sequence = 0
        self.touched: dict[int, int] = {}
        """By row id: the sequence number of the last call that mounted or changed it."""

    async def prepare(
        self, key: str, parent: str, labels: Mapping[str, str], *, direct: bool = False
    ) -> list[Mount]:
        """Creates an active snapshot. `direct`: the client writes to the layer itself."""
        return await self._create(Kind.ACTIVE, key, parent, labels, direct=direct)

    async def view(self, key: str, parent: str, labels: Mapping[str, str]) -> list[Mount]:
        """Creates a read-only snapshot."""
        return await self._create(Kind.VIEW, key, parent, labels, direct=False)

    async def mounts(self, key: str) -> list[Mount]:
        """How to mount an active snapshot or a view. Waits until its layers are on disk.

        BuildKit asks again for an active one when the step that wrote it is over, to read it. It
        may commit it between this answer and its mount(2), which must not find an empty directory
        where our overlay was: it gets an overlay of its own, of what stays where it is.
        """
        self._named(key)
        row = self._index.mountable(key)
        chain = self._index.chain(row.parent)
        await self._require([row, *chain])
        return await self._whole(lambda: self._mount_again(key))

    async def commit(self, name: str, key: str, parent: str, labels: Mapping[str, str]) -> None:
        """Ends the active snapshot `key`; its tree never changes again.

        A commit that fails, or that nobody waits for any more, has not happened: containerd has
        rolled its own side back then, goes on with the active one, and would take the committed one
        for garbage. So it has when it names the active one later, or lets the committed one be
        removed without ever having named it: its own transaction may fail after our answer, and a
        caller give up while that is on its way.
        """
        self._named(key)
        row = self._index.get(key)
        if row.lazy:
            # The object changes its name: whoever fetches it must be through.
            await self._require([row])
        try:
            await self._whole(lambda: self._commit(name, key, parent, labels))
        except asyncio.CancelledError:
            self._keep(asyncio.create_task(self._whole(lambda: self._revert(name, row))))
            raise

    async def remove(self, key: str) -> None:
        """Removes a snapshot; its directory goes in the background."""
        if (active := self._doubtful.get(key)) is not None:
            await self._whole(lambda: self._revert(key, active))
            return
        await self._whole(lambda: self._remove(key))

    async def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Row:
        """Changes the labels that the paths name, all of them when there is no path."""
        self._named(name)
        return await self._whole(lambda: self._update(name, labels, paths))

    def stat(self, name: str) -> Row:
        """The row of a snapshot."""
        self._named(name)
        return self._index.get(name)

    def walk(self, expressions: Sequence[str]) -> list[Row]:
        """Rows that match one of the filters, by name. Raises InvalidArgument for a bad filter."""
        try:
            wanted = filters.parse_all(expressions)
        except filters.FilterSyntaxError as error:
            raise InvalidArgument(str(error)) from error
        return [row for row in self._index.walk() if wanted.matches(row.field)]

    async def usage(self, name: str) -> Usage:
        """Disk usage of a snapshot without its parents; known ones are not measured again."""
        self._named(name)
        row = self._index.get(name)
        if row.usage is not None:
            return row.usage
        if row.kind is Kind.VIEW or row.lazy:
            return Usage(0, 0)
        if row.kind is Kind.ACTIVE:
            return await self._directories.measure(row.id)
        return await asyncio.shield(self._measure(row))

    async def cleanup(self) -> None:
        """Deletes directories that no row knows; returns when they are gone."""
        await self._whole(self._cleanup)
        await self._directories.deleted()

    async def restore(self, rows: Sequence[Row]) -> None:
        """Takes the rows of a restored generation. Raises FailedPrecondition when there are any."""
        async with self._changing:
            if len(self._index):
                raise FailedPrecondition("the root has snapshots already")
            for row in rows:
                self._index.restore(row)
                if row.lazy:
                    self._residency.add_lazy(snapshot(row.name))
                elif row.kind is Kind.ACTIVE or not row.parent:
                    await self._directories.create(row.id, None)
        await self._file.flush()

    def layer(self, row: Row) -> Path:
        """The directory of a snapshot's own layer."""
        return Path(self._directories.layer(row.id))

    def kept_tree(self, row: Row) -> Path:
        """Where the tree of a restored layer is, if others may be linked from it."""
        return Path(self._directories.tree(row.id))

    async def begin_layer(self, row: Row) -> None:
        """Makes the directory of a lazy snapshot's layer, if it is not there."""
        await self._directories.begin(row.id)

    def mark_local(self, row: Row) -> None:
        """A lazy snapshot's layer is whole. Raises NotFound when it was removed meanwhile."""
        self._index.set_local(self._index.get(row.name))

    @contextlib.contextmanager
    def held(self, row: Row) -> Iterator[None]:
        """Keeps the snapshot's directory meanwhile, even when it is removed."""
        self._directories.hold(row.id)
        try:
            yield
        finally:
            self._directories.drop(row.id)

    async def settle(self) -> None:
        """Waits for measurements under way: the rows of committed snapshots are complete then."""
        await asyncio.gather(*self._measuring.values(), return_exceptions=True)

    async def close(self) -> None:
        """Lets running calls end and writes the index. Mounts stay."""
        await asyncio.gather(*self._running, return_exceptions=True)
        await self.settle()
        await self._file.flush()

    async def _create(
        self, kind: Kind, key: str, parent: str, labels: Mapping[str, str], *, direct: bool
    ) -> list[Mount]:
        self._named(parent)
        await self._require(self._index.check_create(key, parent))
        return await self._whole(lambda: self._create_now(kind, key, parent, labels, direct=direct))

    async def _create_now(
        self, kind: Kind, key: str, parent: str, labels: Mapping[str, str], *, direct: bool
    ) -> list[Mount]:
        async with self._changing:
            chain = self._index.check_create(key, parent)
            number = self._index.reserve_id()
            try:
                if kind is Kind.ACTIVE or not chain:
                    owner = chain[0].id if chain else None
                    await self._directories.create(number, owner, work=direct)
                layers = [row.id for row in chain]
                work = WORK if direct else ""
                mounts = await self._shapes.mounts(number, kind, layers, work)
            except BaseException:
                await self._directories.discard(number)
                raise
            row = self._index.create(
                number, kind, key, parent, labels=labels, now_ns=self._now_ns(), direct=direct
            )
            if kind is Kind.ACTIVE:
                self._unasked.add(number)
            self._touch(row)
        await self._file.flush()
        return mounts

    async def _mount_again(self, key: str) -> list[Mount]:
        async with self._changing:
            row = self._index.mountable(key)
            chain = [ancestor.id for ancestor in self._index.chain(row.parent)]
            if row.kind is Kind.ACTIVE:
                self._touch(row)
            work = await self._work(row, chain)
            return await self._shapes.mounts(row.id, row.kind, chain, work)

    async def _work(self, row: Row, chain: Sequence[int]) -> str:
        """The work directory for a client that mounts the overlay itself; none: it binds ours."""
        asked = row.id not in self._unasked
        self._unasked.discard(row.id)
        if row.direct:
            return WORK
        if row.kind is Kind.VIEW or not asked or not fits([row.id, *chain]):
            return ""
        if chain:
            await self._directories.hand_over(row.id)
        return AGAIN

    async def _commit(self, name: str, key: str, parent: str, labels: Mapping[str, str]) -> None:
        async with self._changing:
            active = self._index.get(key)
            await self._directories.unpin(active.id)
            row = self._index.commit(name, key, parent, labels, self._now_ns())
            self._touch(row)
            self._unasked.discard(row.id)
        try:
            await self._file.flush()
        except OSError:
            await self._revert(name, active)
            raise
        self._doubtful[name] = active
        self._measure(row)
        self._events.publish(agent_pb2.Event(committed=name))

    async def _revert(self, name: str, active: Row) -> None:
        async with self._changing:
            # Not there if the commit was refused, or its caller gave up before it began.
            if name in self._index and self._index.get(name).id == active.id:
                self._undo(name, active)
        # On a full disk it goes with the next write.
        with contextlib.suppress(OSError):
            await self._file.flush()

    def _undo(self, name: str, active: Row) -> None:
        self._doubtful.pop(name, None)
        self._index.revert(self._index.get(name), active)
        self._touch(active)

    def _named(self, name: str) -> None:
        """Learn from a call that names a snapshot how its commit has ended for containerd."""
        self._doubtful.pop(name, None)
        if name in self._index:
            return
        for committed, active in self._doubtful.items():
            if active.name == name:
                self._undo(committed, active)
                return

    async def _remove(self, key: str) -> None:
        async with self._changing:
            row = self._index.remove(key)
            self.sequence += 1
            self.touched.pop(row.id, None)
            self._unasked.discard(row.id)
            self._residency.forget(snapshot(key))
            await self._directories.discard(row.id)
        # A full disk must not keep anybody from removing things: the row goes with the next write.
        with contextlib.suppress(OSError):
            await self._file.flush()

    async def _update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Row:
        async with self._changing:
            row = self._index.update(name, labels, paths, self._now_ns())
            self.sequence += 1
            self.touched[row.id] = self.sequence
        await self._file.flush()
        return row

    async def _cleanup(self) -> None:
        async with self._changing:
            await self._directories.discard_unknown({row.id for row in self._index.walk()})

    def _touch(self, row: Row) -> None:
        self.sequence += 1
        self.touched[row.id] = self.sequence
        if row.usage is not None:
            self._index.set_usage(row, None)

    def _measure(self, row: Row) -> asyncio.Task[Usage]:
        task = self._measuring.get(row.id)
        if task is None:
            task = asyncio.create_task(self._measure_now(row), name=f"measure {row.id}")
            self._measuring[row.id] = task
            task.add_done_callback(lambda done: self._measured(row.id, done))
        return task

    async def _measure_now(self, row: Row) -> Usage:
        usage = await self._directories.measure(row.id)
        self._index.set_usage(row, usage)
        return usage

    def _measured(self, number: int, task: asyncio.Task[Usage]) -> None:
        del self._measuring[number]
        if not task.cancelled():
            # Whoever asks for the usage measures again and sees the error. Removed meanwhile: none.
            task.exception()

    async def _require(self, rows: Iterable[Row]) -> None:
        # Views have no bytes; an active snapshot that was made here is no object of any cache.
        objects = [snapshot(row.name) for row in rows if row.lazy or row.kind is Kind.COMMITTED]
        # From the bottom up, so that the trace names a layer after those below it.
        await self._residency.require(reversed(objects))

    async def _whole(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        await self._gate.enter()
        task = asyncio.create_task(self._inside(call))
        self._keep(task)
        return await asyncio.shield(task)

    async def _inside(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        try:
            return await call()
        finally:
            self._gate.leave()

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._running.add(task)
        task.add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # The caller has seen it, or has gone.
            task.exception()
