"""Worker processes that unpack: a queue by priority, and tasks that survive their worker."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, TypeVar

from sidecar.agent import messages
from sidecar.agent.errors import WorkerLost
from sidecar.agent.ports import FillResult, Prepared, Priority, Sibling
from sidecar.agent.process import Process, WorkerDied
from sidecar.agent.staged import StagedChunk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
    from sidecar.agent.starting import Started

#: Uncompressed bytes that one process takes of a segment. In small files they are thousands of
#: them, a tenth of a second's work: nobody should wait for one process while others have none.
PART_BYTES = 8 << 20
#: Workers that may die of one task before it is given up.
DEATHS = 3
#: Seconds for which a task waits for a process that cannot be started: a RUN step may have all
#: that a pod is allowed. Less than a leased file's opener is held.
STARTING_SECONDS = 10.0
#: The longest pause between two tries, in seconds; the first one is a sixteenth of it.
STARTING_PAUSE = 0.8

R = TypeVar("R")


@dataclass(eq=False)
class _Job:
    priority: Priority
    request: messages.Request
    answer: asyncio.Future[messages.Reply]
    deaths: int = 0
    #: When no process could be started for it at first, in the event loop's seconds.
    waits_since: float | None = None
    worker: Process | None = None
    left: asyncio.Event = field(default_factory=asyncio.Event)


class _Queue:
    """Jobs by the priority that they have when one is taken; equal ones as they came.

    They are some hundreds, since what is staged is bounded, and thousands where it is very small
    for what it becomes.
    """

    def __init__(self) -> None:
        self._jobs: list[_Job] = []
        self._ready = asyncio.Semaphore(0)

    def put(self, job: _Job) -> None:
        self._jobs.append(job)
        self._ready.release()

    def put_back(self, job: _Job) -> None:
        """It has had its turn, in vain."""
        self._jobs.insert(0, job)
        self._ready.release()

    async def take(self) -> _Job:
        await self._ready.acquire()
        job = min(self._jobs, key=lambda job: job.priority())
        self._jobs.remove(job)
        return job

    def empty(self) -> list[_Job]:
        """Return what is left, of which nobody will take any more."""
        left, self._jobs = self._jobs, []
        return left


class Unpackers:
    """The Unpacker of `ports`: `count` processes, each doing one task after another.

    An async context manager: entering starts the processes without waiting for them, leaving kills
    them. A task whose process died is done again by another; all tasks may be repeated. A call that
    is cancelled returns when no process works on its target any more.
    """

    def __init__(self, count: int, spares: Iterable[Started] = ()) -> None:
        """Use `count` processes of at most 150 MB each, first those that were started already."""
        self._count = count
        self._spares = deque(spares)
        self._queue = _Queue()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        self._tasks = [group.create_task(self._work(), name="unpacker") for _ in range(self._count)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        if kind is None or issubclass(kind, asyncio.CancelledError):
            await self._stack.__aexit__(kind, error, trace)
        else:
            # Not told of it, the group does not wrap it.
            await self._stack.aclose()
        for job in self._queue.empty():
            job.answer.cancel()
        for spare in self._spares:
            spare.connection.close()
            spare.kill()
            await spare.wait()

    async def prepare(
        self, tree: Path, target: Path, *, sibling: Sibling | None = None, priority: Priority
    ) -> Prepared:
        """Make directories, symbolic links and empty files, and link what the sibling has.

        Raises CorruptObject, OSError, WorkerLost; so do the others.
        """
        paths = (sibling.tree, sibling.layer) if sibling is not None else ()
        request = messages.Prepare(
            os.fsencode(tree), os.fsencode(target), *(os.fsencode(path) for path in paths)
        )
        prepared = await self._run(request, priority, messages.Prepared)
        return Prepared(prepared.wanted, prepared.linked)

    async def fill(
        self,
        tree: Path,
        target: Path,
        segment: agent_pb2.Segment,
        *,
        linked: bytes = b"",
        priority: Priority,
    ) -> FillResult:
        """Verify the chunks of a segment and write every piece that needs one.

        Several processes share a segment that is long, or has many small files.
        """
        parts = [
            messages.Fill(
                os.fsencode(tree), os.fsencode(target), linked, os.fsencode(segment.path), staged
            )
            for staged in _parts(segment.chunks)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._run(part, priority, messages.Filled)) for part in parts
                ]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        filled = [task.result() for task in tasks]
        return FillResult(
            sum(part.files for part in filled),
            sum(part.bytes for part in filled),
            [chunk for part in filled for chunk in part.corrupt],
        )

    async def finish(
        self, tree: Path, target: Path, *, linked: bytes = b"", priority: Priority
    ) -> None:
        """Set what can only be set when all content is there."""
        request = messages.Finish(os.fsencode(tree), os.fsencode(target), linked)
        await self._run(request, priority, messages.Done)

    async def _run(self, request: messages.Request, priority: Priority, kind: type[R]) -> R:
        answer = asyncio.get_running_loop().create_future()
        job = _Job(priority, request, answer)
        self._queue.put(job)
        try:
            reply = await answer
        finally:
            # Cancelled in the middle of it: the target must be left alone before anybody goes on.
            if job.worker is not None:
                job.worker.kill()
                await job.left.wait()
        if isinstance(reply, messages.Failed):
            raise reply.error()
        if not isinstance(reply, kind):
            raise TypeError(f"{request!r} was answered by {reply!r}")
        return reply

    async def _work(self) -> None:
        process: Process | None = None
        pause = STARTING_PAUSE / 16
        try:
            process = await self._first()
            while True:
                job = await self._queue.take()
                if job.answer.done():
                    continue
                process = await self._living(process, job)
                if process is None:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, STARTING_PAUSE)
                    continue
                pause = STARTING_PAUSE / 16
                if not job.answer.done():
                    process = await self._do(job, process)
        finally:
            if process is not None:
                await process.end()

    async def _first(self) -> Process | None:
        if self._spares:
            return await Process.adopt(self._spares.popleft())
        with suppress(OSError):
            return await Process.start("unpack")
        return None

    async def _living(self, process: Process | None, job: _Job) -> Process | None:
        """A process for the job, this one unless it has died; None, and the job waits, without."""
        if process is not None and not process.dead:
            return process
        try:
            if process is not None:
                await process.end()
            return await Process.start("unpack")
        except asyncio.CancelledError:
            job.answer.cancel()
            raise
        except OSError as error:
            self._wait(job, error)
            return None

    async def _do(self, job: _Job, process: Process) -> Process | None:
        """Let the process do a job; the process again unless it has died."""
        try:
            job.worker = process
            job.left.clear()
            reply = await process.call(job.request)
        except asyncio.CancelledError:
            job.answer.cancel()
            raise
        except WorkerDied:
            await process.end()
            self._repeat(job)
            return None
        else:
            if not job.answer.done():
                job.answer.set_result(reply)
            return process
        finally:
            job.worker = None
            job.left.set()

    def _repeat(self, job: _Job) -> None:
        """The process that did it has died."""
        if job.answer.done():
            return
        job.deaths += 1
        if job.deaths < DEATHS:
            self._queue.put_back(job)
        else:
            job.answer.set_exception(
                WorkerLost(
                    f"{job.deaths} processes died of {type(job.request).__name__}",
                    advice="look for the memory limit in the kernel's log, else report a defect",
                )
            )

    def _wait(self, job: _Job, error: OSError) -> None:
        """There is no process for it now; another worker's may come first."""
        if job.answer.done():
            return
        now = asyncio.get_running_loop().time()
        if job.waits_since is None:
            job.waits_since = now
        if now - job.waits_since < STARTING_SECONDS:
            self._queue.put_back(job)
        else:
            job.answer.set_exception(
                WorkerLost(
                    f"no process could be started for {STARTING_SECONDS:g} s ({error})",
                    advice="allow the pod more processes or more memory",
                )
            )


def _parts(chunks: Iterable[agent_pb2.StagedChunk]) -> Iterator[list[StagedChunk]]:
    """Cut a segment's chunks, in the order of the file, into runs of about PART_BYTES."""
    part: list[StagedChunk] = []
    size = 0
    for each in sorted(chunks, key=lambda chunk: chunk.offset):
        part.append(StagedChunk(each.chunk, each.offset, each.stored))
        size += max(each.length, each.stored)
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
