"""Unpacking processes: whatever is killed, the directory comes out right."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.errors import CorruptObject
from sidecar.agent import messages, ports, workers
from sidecar.agent.errors import WorkerLost
from sidecar.agent.process import Process
from sidecar.agent.starting import Started, spares
from sidecar.agent.workers import DEATHS, Unpackers
from tests.unit.agent.ondisk import Cache, describe, make_everything

MEGABYTES = 150


def demand() -> int:
    return ports.DEMAND


@pytest.fixture
async def started(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Process]]:
    """Every process that was started; all must be gone at the end."""
    processes: list[Process] = []
    start = Process.start

    async def starting(kind: str, *arguments: str) -> Process:
        processes.append(await start(kind, *arguments))
        return processes[-1]

    monkeypatch.setattr(Process, "start", starting)
    yield processes
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)


@pytest.fixture
async def sent(monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[messages.Request]:
    """Every request, once a process has been sent it."""
    queue: asyncio.Queue[messages.Request] = asyncio.Queue()
    send = Process.send

    async def sending(self: Process, request: messages.Request) -> None:
        await send(self, request)
        queue.put_nowait(request)

    monkeypatch.setattr(Process, "send", sending)
    return queue


class Task:
    """A tree ready to be unpacked."""

    def __init__(self, cache: Cache, tmp_path: Path, *, split: bool = True) -> None:
        self.source = tmp_path / "source"
        make_everything(self.source)
        captured = cache.packer.capture_tree(self.source)
        self.tree = tmp_path / "tree"
        self.tree.write_bytes(cache.read(captured.tree_digests))
        self.target = tmp_path / "target"
        self.target.mkdir()
        self.chunks = len(captured.data_digests) // 32
        self.segments = [
            agent_pb2.Segment(
                path=str(path),
                chunks=[
                    agent_pb2.StagedChunk(chunk=each.chunk, offset=each.offset, stored=each.stored)
                    for each in part
                ],
            )
            for path, staged in cache.segments(captured.data_digests).items()
            for part in ([[each] for each in staged] if split else [staged])
        ]

    async def run(self, unpackers: ports.Unpacker) -> None:
        prepared = await unpackers.prepare(self.tree, self.target, priority=demand)
        assert list(prepared.wanted) == list(range(self.chunks))
        async with asyncio.TaskGroup() as group:
            fills = [group.create_task(self.fill(unpackers, each)) for each in self.segments]
        assert not any(fill.result().corrupt for fill in fills)
        await unpackers.finish(self.tree, self.target, priority=demand)

    async def fill(
        self,
        unpackers: ports.Unpacker,
        segment: agent_pb2.Segment,
        priority: ports.Priority = demand,
    ) -> ports.FillResult:
        return await unpackers.fill(self.tree, self.target, segment, priority=priority)


@pytest.fixture
def task(cache: Cache, tmp_path: Path) -> Task:
    return Task(cache, tmp_path)


def resident_mb(pid: int) -> float:
    """The most memory that a process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError


async def test_segments_of_one_tree_are_filled_in_parallel(
    task: Task, started: list[Process]
) -> None:
    async with Unpackers(3) as unpackers:
        await task.run(unpackers)
        assert len(started) == 3
        assert max(resident_mb(process.pid) for process in started) < MEGABYTES
    assert describe(task.target) == describe(task.source)


@pytest.fixture
def spare_workers() -> Iterator[list[Started]]:
    """Started as the agent does it, before there is an event loop; gone at the end."""
    found = spares(["--root=/", "--workers=2"])
    yield found
    for spare in found:
        with pytest.raises(ProcessLookupError):
            os.kill(spare.pid, 0)


async def test_workers_that_run_already_are_taken_first(
    spare_workers: list[Started], task: Task, started: list[Process]
) -> None:
    assert len(spare_workers) == 2
    async with Unpackers(2, spare_workers) as unpackers:
        await task.run(unpackers)
    assert not started
    assert describe(task.target) == describe(task.source)


async def test_spare_workers_that_nobody_took_end_with_the_others(
    spare_workers: list[Started],
) -> None:
    async with Unpackers(0, spare_workers):
        assert spare_workers[0].returncode is None


@pytest.mark.parametrize("arguments", [[], ["--workers=x"], ["--workers=0"], ["--workers", "2"]])
def test_no_spare_workers_without_a_number(arguments: list[str]) -> None:
    assert spares(arguments) == []


async def test_workers_killed_at_any_point(
    task: Task, started: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every task loses its first worker, each a little later in the task."""
    call = Process.call
    seen: list[object] = []

    async def dying(self: Process, request: messages.Request) -> messages.Reply:
        if request not in seen:
            seen.append(request)
            if len(seen) % 2:
                # At once: no task is done so early.
                asyncio.get_running_loop().call_soon(self.kill)
            else:
                asyncio.get_running_loop().call_later(0.0005 * (len(seen) % 20), self.kill)
        return await call(self, request)

    monkeypatch.setattr(Process, "call", dying)
    async with Unpackers(2) as unpackers:
        await task.run(unpackers)
    assert len(seen) == len(task.segments) + 2
    assert len(started) > len(seen) / 4
    assert describe(task.target) == describe(task.source)


@pytest.fixture
def whole(cache: Cache, tmp_path: Path) -> Task:
    """A tree whose chunks come in one segment."""
    return Task(cache, tmp_path, split=False)


async def test_the_processes_share_a_long_segment(
    whole: Task, sent: asyncio.Queue[messages.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PART_BYTES", 1)
    task = whole
    (segment,) = task.segments
    async with Unpackers(2) as unpackers:
        await task.run(unpackers)
    requests = [sent.get_nowait() for _ in range(sent.qsize())]
    fills = [each for each in requests if isinstance(each, messages.Fill)]
    assert sorted(each.chunks[0].chunk for each in fills) == list(range(task.chunks))
    assert all(each.segment == os.fsencode(segment.path) for each in fills)
    assert describe(task.target) == describe(task.source)


async def test_a_stopped_worker_that_is_killed_loses_nothing(
    task: Task, started: list[Process], sent: asyncio.Queue[messages.Request]
) -> None:
    async with Unpackers(1) as unpackers:
        await unpackers.prepare(task.tree, task.target, priority=demand)
        assert isinstance(await sent.get(), messages.Prepare)
        (first,) = started
        os.kill(first.pid, signal.SIGSTOP)
        fill = asyncio.create_task(task.fill(unpackers, task.segments[0]))
        assert isinstance(await sent.get(), messages.Fill)
        first.kill()
        assert not (await fill).corrupt
        assert len(started) == 2


async def test_a_worker_that_died_idle_is_no_death_of_the_next_task(
    task: Task, started: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "DEATHS", 1)
    async with Unpackers(1) as unpackers:
        await unpackers.prepare(task.tree, task.target, priority=demand)
        started[0].kill()
        await started[0]._process.wait()
        await unpackers.prepare(task.tree, task.target, priority=demand)


async def test_a_task_that_kills_its_workers_is_given_up(
    task: Task, started: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Unpackers(1) as unpackers:
        await unpackers.prepare(task.tree, task.target, priority=demand)
        call = Process.call

        async def killing(self: Process, request: messages.Request) -> messages.Reply:
            self.kill()
            return await call(self, request)

        with monkeypatch.context() as patch:
            patch.setattr(Process, "call", killing)
            with pytest.raises(WorkerLost):
                await unpackers.finish(task.tree, task.target, priority=demand)
        assert len(started) == DEATHS
        await task.run(unpackers)
    assert describe(task.target) == describe(task.source)


class _Full:
    """No process can be started, `times` times, or until further notice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int = sys.maxsize) -> None:
        self.left = times
        start = Process.start

        async def starting(kind: str, *arguments: str) -> Process:
            if self.left:
                self.left -= 1
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return await start(kind, *arguments)

        monkeypatch.setattr(Process, "start", starting)
        monkeypatch.setattr(workers, "STARTING_PAUSE", 0.001)


async def test_a_task_waits_for_room_for_a_process(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = _Full(monkeypatch, DEATHS * 5)
    async with Unpackers(2) as unpackers:
        await task.run(unpackers)
    assert not full.left
    assert describe(task.target) == describe(task.source)


async def test_the_processes_that_there_are_do_it_all_where_there_is_no_room(
    task: Task, spare_workers: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    _Full(monkeypatch)
    async with Unpackers(4, spare_workers) as unpackers:
        await task.run(unpackers)
    assert describe(task.target) == describe(task.source)


async def test_a_task_does_not_wait_for_ever_for_a_process(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Full(monkeypatch)
    monkeypatch.setattr(workers, "STARTING_SECONDS", 0.01)
    async with Unpackers(1) as unpackers:
        with pytest.raises(WorkerLost, match="temporarily unavailable"):
            await unpackers.prepare(task.tree, task.target, priority=demand)


async def test_demand_goes_first_also_if_it_comes_to_what_waits(
    task: Task, started: list[Process], sent: asyncio.Queue[messages.Request]
) -> None:
    async with Unpackers(1) as unpackers:
        await unpackers.prepare(task.tree, task.target, priority=demand)
        assert isinstance(await sent.get(), messages.Prepare)
        (worker,) = started
        os.kill(worker.pid, signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            group.create_task(task.fill(unpackers, task.segments[0], lambda: ports.REST))
            assert isinstance(await sent.get(), messages.Fill)
            priorities = {1: ports.REST, 2: ports.TRACE, 3: ports.REST}
            for at in priorities:
                now = partial(priorities.__getitem__, at)
                group.create_task(task.fill(unpackers, task.segments[at], now))
            await asyncio.sleep(0)
            priorities[3] = ports.DEMAND
            os.kill(worker.pid, signal.SIGCONT)
    order = [sent.get_nowait() for _ in range(3)]
    assert [each.chunks[0].chunk for each in order if isinstance(each, messages.Fill)] == [
        task.segments[at].chunks[0].chunk for at in (3, 2, 1)
    ]


async def test_after_a_cancelled_call_nothing_touches_the_target(
    task: Task, started: list[Process], sent: asyncio.Queue[messages.Request]
) -> None:
    async with Unpackers(1) as unpackers:
        await unpackers.prepare(task.tree, task.target, priority=demand)
        assert isinstance(await sent.get(), messages.Prepare)
        os.kill(started[0].pid, signal.SIGSTOP)
        fill = asyncio.create_task(task.fill(unpackers, task.segments[0]))
        assert isinstance(await sent.get(), messages.Fill)
        fill.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fill
        with pytest.raises(ProcessLookupError):
            os.kill(started[0].pid, 0)
        await task.run(unpackers)
    assert describe(task.target) == describe(task.source)


async def test_leaving_ends_what_is_under_way(task: Task, started: list[Process]) -> None:
    async with Unpackers(1) as unpackers:
        await unpackers.prepare(task.tree, task.target, priority=demand)
        os.kill(started[0].pid, signal.SIGSTOP)
        fills = [asyncio.create_task(task.fill(unpackers, task.segments[0])) for _ in range(2)]
        await asyncio.sleep(0)
    assert all(
        isinstance(each, asyncio.CancelledError)
        for each in await asyncio.gather(*fills, return_exceptions=True)
    )


async def test_an_error_of_the_user_is_not_wrapped(started: list[Process]) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Unpackers(1):
            raise ZeroDivisionError
    assert len(started) <= 1


async def test_errors_keep_their_kind(task: Task, started: list[Process], tmp_path: Path) -> None:
    async with Unpackers(1) as unpackers:
        with pytest.raises(FileNotFoundError, match="no such tree"):
            await unpackers.prepare(tmp_path / "no such tree", task.target, priority=demand)
        (tmp_path / "bad").write_bytes(b"\xff\xff")
        with pytest.raises(CorruptObject, match="tree"):
            await unpackers.prepare(tmp_path / "bad", task.target, priority=demand)
        assert len(started) == 1


_AGENT = """
import asyncio, sys
from sidecar.agent.messages import Flush, Prepare
from sidecar.agent.process import Process

async def main():
    nothing = Prepare(b"/nonexistent", b"/nonexistent")
    for kind, request in (["unpack"], nothing), (["pack", sys.argv[1]], Flush()):
        process = await Process.start(*kind)
        await process.call(request)
        print(process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_no_worker_outlives_the_agent(tmp_path: Path) -> None:
    """Even one that is stopped, so that it cannot see its socket closed."""
    with subprocess.Popen(
        [sys.executable, "-c", _AGENT, tmp_path], stdout=subprocess.PIPE, text=True
    ) as agent:
        assert agent.stdout is not None
        pids = [int(agent.stdout.readline()) for _ in range(2)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        handles = [os.pidfd_open(pid) for pid in pids]
        agent.kill()
        for handle in handles:
            assert select.select([handle], [], [], 30)[0], "the worker is still there"
            os.close(handle)
