"""Fill calls: segments in, released files out, and the object local at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.errors import CorruptObject
from sidecar.agent.events import Events
from sidecar.agent.filling import Filling
from sidecar.agent.index import FailedPrecondition, NotFound
from sidecar.agent.ports import FillResult, Prepared
from sidecar.agent.residency import Residency, snapshot

KEY = snapshot("s")


class Scripted:
    """A target that takes everything, but finds the chunks of `corrupt` wrong once."""

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self.wanted: list[int] | None = None
        self.corrupt: set[int] = set()
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.prepares = asyncio.Event()
        self.prepares.set()
        self.begun = asyncio.Semaphore(0)
        self.finished = False

    async def prepare(self) -> Prepared:
        await self.prepares.wait()
        return Prepared(self.wanted if self.wanted is not None else range(self.chunks), b"\1\0\1")

    async def fill(self, segment: agent_pb2.Segment) -> FillResult:
        self.begun.release()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        wrong = self.corrupt & {staged.chunk for staged in segment.chunks}
        self.corrupt -= wrong
        return FillResult(1, 10, sorted(wrong))

    async def finish(self) -> None:
        self.finished = True


class Sender:
    """Segments that a test sends when it likes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._queue: asyncio.Queue[agent_pb2.Segment | None] = asyncio.Queue()
        self.paths: list[Path] = []
        self.taken = asyncio.Event()

    def send(self, *chunks: int) -> None:
        path = self._directory / f"segment-{len(self.paths)}"
        path.touch()
        self.paths.append(path)
        staged = [agent_pb2.StagedChunk(chunk=number) for number in chunks]
        self._queue.put_nowait(agent_pb2.Segment(path=str(path), chunks=staged))

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def segments(self) -> AsyncIterator[agent_pb2.Segment]:
        while (segment := await self._queue.get()) is not None:
            self.taken.set()
            yield segment


@pytest.fixture
def residency() -> Residency:
    made = Residency(Events())
    made.add_lazy(KEY)
    return made


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    return Sender(tmp_path)


async def answers(
    target: Scripted, sender: Sender, residency: Residency
) -> list[agent_pb2.FillResponse]:
    async with aclosing(Filling(KEY, target, residency).run(sender.segments())) as running:
        return [answer async for answer in running]


async def test_segments_are_worked_on_at_once_and_released(
    sender: Sender, residency: Residency
) -> None:
    target = Scripted(4)
    target.gate.clear()
    for chunk in range(4):
        sender.send(chunk)
    running = asyncio.create_task(answers(target, sender, residency))
    for _ in range(4):
        await target.begun.acquire()
    assert not residency.is_local(KEY)
    target.gate.set()
    # The sender does not end: the last chunk is enough.
    *released, done = await running
    assert sorted(r.released for r in released) == sorted(map(str, sender.paths))
    assert not any(path.exists() for path in sender.paths)
    assert (done.done.files, done.done.bytes) == (4, 40)
    assert target.finished
    assert residency.is_local(KEY)


async def test_requests_are_read_before_there_is_work_for_them(
    sender: Sender, residency: Residency
) -> None:
    """They tell of priorities too."""
    target = Scripted(1)
    target.prepares = sender.taken
    sender.send(0)
    async with asyncio.timeout(10):
        *_, done = await answers(target, sender, residency)
    assert done.HasField("done")


async def test_corrupt_chunks_may_come_again(sender: Sender, residency: Residency) -> None:
    target = Scripted(2)
    target.corrupt = {1}
    sender.send(0, 1)
    async with aclosing(Filling(KEY, target, residency).run(sender.segments())) as running:
        assert list((await anext(running)).corrupt.chunks) == [1]
        assert (await anext(running)).released
        assert not residency.is_local(KEY)
        sender.send(1)
        assert (await anext(running)).released
        assert (await anext(running)).HasField("done")


async def test_a_sender_that_ends_too_early_is_told(sender: Sender, residency: Residency) -> None:
    target = Scripted(3)
    sender.send(0)
    sender.send(2)
    sender.end()
    with pytest.raises(FailedPrecondition, match="1 chunks"):
        await answers(target, sender, residency)
    assert not target.finished
    assert not residency.is_local(KEY)


async def test_an_object_without_chunks_needs_no_segment(
    sender: Sender, residency: Residency
) -> None:
    (done,) = await answers(Scripted(0), sender, residency)
    assert done.HasField("done")


async def test_only_what_is_wanted_must_come(sender: Sender, residency: Residency) -> None:
    target = Scripted(5)
    target.wanted = [1, 4]
    filling = Filling(KEY, target, residency, tell_wanted=True)
    async with aclosing(filling.run(sender.segments())) as running:
        wanted = (await anext(running)).wanted
        assert (list(wanted.chunks), wanted.linked) == ([1, 4], 2)
        sender.send(1)
        assert (await anext(running)).released
        assert not residency.is_local(KEY)
        sender.send(4)
        assert (await anext(running)).released
        assert (await anext(running)).HasField("done")


async def test_an_object_that_is_linked_whole_needs_no_segment(
    sender: Sender, residency: Residency
) -> None:
    target = Scripted(5)
    target.wanted = []
    filling = Filling(KEY, target, residency, tell_wanted=True)
    async with aclosing(filling.run(sender.segments())) as running:
        kinds = [answer.WhichOneof("response") async for answer in running]
    assert kinds == ["wanted", "done"]
    assert residency.is_local(KEY)


async def test_the_first_error_ends_the_call(sender: Sender, residency: Residency) -> None:
    target = Scripted(2)
    target.error = CorruptObject("bad tree")
    sender.send(0)
    sender.send(1)
    with pytest.raises(CorruptObject, match="bad tree"):
        await answers(target, sender, residency)
    assert not residency.is_local(KEY)


@pytest.mark.parametrize("more", [True, False])
async def test_a_removed_object_is_not_filled_to_the_end(
    sender: Sender, residency: Residency, *, more: bool
) -> None:
    target = Scripted(2)
    sender.send(0)
    async with aclosing(Filling(KEY, target, residency).run(sender.segments())) as running:
        assert (await anext(running)).released
        residency.forget(KEY)
        if more:
            sender.send(1)
        with pytest.raises(NotFound):
            await anext(running)
    assert not target.finished


async def test_a_call_that_is_given_up_stops_its_work(sender: Sender, residency: Residency) -> None:
    target = Scripted(1)
    target.gate.clear()
    sender.send(0)
    running = asyncio.create_task(answers(target, sender, residency))
    await target.begun.acquire()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    target.gate.set()
    await asyncio.sleep(0)
    assert not target.finished
    assert sender.paths[0].exists()
