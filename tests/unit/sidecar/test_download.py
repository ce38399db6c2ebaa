"""Download slots: the most urgent goes first, budgets hold, nobody starves or leaks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from buildsvc.cache import chunks
from buildsvc.cache.packs import pack_name
from buildsvc.errors import CorruptObject, ObjectNotFound, UnreadableObject
from buildsvc.store.faults import Fail, FaultyStore, Rule
from sidecar.download import Downloads, Slots
from sidecar.losses import Losses
from sidecar.segments import cut
from tests.unit.cache.fakes import MemoryStore, make_catalog


async def test_the_most_urgent_waiter_gets_the_next_slot() -> None:
    slots = Slots(downloads=1, staged_bytes=1000)
    order: list[str] = []
    release = asyncio.Event()

    async def use(name: str, urgency: int) -> None:
        async with slots.download(1, lambda: urgency):
            order.append(name)
            if name == "first":
                await release.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(use("first", 2))
        await asyncio.sleep(0)
        for name, urgency in (("rest", 2), ("trace", 1), ("demand", 0)):
            group.create_task(use(name, urgency))
        await asyncio.sleep(0)
        release.set()
    assert order == ["first", "demand", "trace", "rest"]


async def test_urgency_is_asked_again_when_a_slot_is_free() -> None:
    slots = Slots(downloads=1, staged_bytes=1000)
    order: list[str] = []
    urgencies = {"a": 1, "b": 2}
    release = asyncio.Event()

    async def use(name: str) -> None:
        async with slots.download(1, lambda: urgencies.get(name, 0)):
            order.append(name)
            if name == "first":
                await release.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(use("first"))
        await asyncio.sleep(0)
        group.create_task(use("a"))
        group.create_task(use("b"))
        await asyncio.sleep(0)
        urgencies["b"] = 0
        release.set()
    assert order == ["first", "b", "a"]


async def test_staged_bytes_are_bounded_until_they_are_given_back() -> None:
    slots = Slots(downloads=4, staged_bytes=100)
    entered: list[int] = []

    async def use(number: int) -> None:
        async with slots.download(60, lambda: 1):
            entered.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(use(number))
        for _ in range(5):
            await asyncio.sleep(0)
        assert entered == [0]
        slots.unstage(60)
        for _ in range(5):
            await asyncio.sleep(0)
        assert entered == [0, 1]
        slots.unstage(60)


async def test_what_is_larger_than_the_budget_goes_alone() -> None:
    slots = Slots(downloads=2, staged_bytes=10)
    async with asyncio.timeout(5), slots.download(1000, lambda: 1):
        pass
    slots.unstage(1000)
    async with asyncio.timeout(5), slots.download(5, lambda: 1):
        pass


async def test_a_failed_download_gives_its_bytes_back() -> None:
    slots = Slots(downloads=1, staged_bytes=10)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"):
            async with slots.download(10, lambda: 1):
                raise ValueError("broken")


@pytest.mark.parametrize("when", ["waiting", "leaving", "admitted"])
async def test_a_cancelled_waiter_gives_its_place_back(when: str) -> None:
    slots = Slots(downloads=1, staged_bytes=10)
    release = asyncio.Event()
    waiters: list[asyncio.Task[None]] = []

    async def hold() -> None:
        async with slots.download(5, lambda: 0):
            await release.wait()
            # The queue meets the cancelled waiter's turn before its task has run again.
            if when == "leaving":
                waiters[0].cancel()
        slots.unstage(5)
        # The slot is given to the waiter here; it is cancelled before it runs again.
        if when == "admitted":
            waiters[0].cancel()

    async def wait() -> None:
        async with slots.download(10, lambda: 1):
            raise AssertionError("was cancelled before it could run")

    async with asyncio.TaskGroup() as group:
        holder = group.create_task(hold())
        await asyncio.sleep(0)
        waiters.append(group.create_task(wait()))
        await asyncio.sleep(0)
        if when == "waiting":
            waiters[0].cancel()
            await asyncio.wait(waiters)
        release.set()
        await holder
    # Neither more nor less fits than at first.
    async with asyncio.timeout(5), slots.download(10, lambda: 1):
        second = asyncio.create_task(slots.download(1, lambda: 0).__aenter__())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not second.done()
        second.cancel()
        await asyncio.wait([second])


async def test_content_is_the_same_in_memory_and_in_a_file(tmp_path: Path) -> None:
    contents = [bytes([number]) * 1000 for number in range(8)]
    (tmp_path / "packs").mkdir()
    catalog = await asyncio.to_thread(make_catalog, tmp_path / "packs", contents)
    order = [5, 0, 7, 5, 1]
    locations = [catalog.locate(chunks.digest(contents[number])) for number in order]
    expected = b"".join(contents[number] for number in order)
    store = MemoryStore()
    (file,) = (tmp_path / "packs").iterdir()
    name = pack_name(locations[0].pack)
    store.objects[name] = file.read_bytes()
    (tmp_path / "down").mkdir()
    slots, trees, lost = Slots(2, 1000), Slots(2, 1000), Losses()
    downloads = Downloads(store, tmp_path / "down", slots, trees=trees, losses=lost)
    assert await downloads.content(locations, lambda: 0) == expected
    async with downloads.tree(locations, lambda: 0) as path:
        assert path.read_bytes() == expected
        assert trees._staged == len(expected)
    store.objects[name] = bytes(len(store.objects[name]))
    with pytest.raises(CorruptObject):
        await downloads.tree(locations, lambda: 0).__aenter__()
    # That they are in one pack says nothing of the others.
    assert lost.chunks <= {(at.digest, at.pack) for at in locations}
    assert lost.suspects == {locations[0].pack}
    assert not lost.packs
    del store.objects[name]
    (plan,) = cut(enumerate(locations[:1]))
    for failing in (downloads.content(locations, lambda: 0), downloads.segment(plan, lambda: 0)):
        with pytest.raises(ObjectNotFound):
            await failing
        assert lost.packs == {locations[0].pack}
        lost.packs.clear()
    archived = FaultyStore(store, [Rule("get_range*", name, 0, Fail(UnreadableObject("archived")))])
    downloads = Downloads(archived, tmp_path / "down", slots, trees=trees, losses=lost)
    for failing in (downloads.content(locations, lambda: 0), downloads.segment(plan, lambda: 0)):
        with pytest.raises(UnreadableObject):
            await failing
        assert lost.packs == {locations[0].pack}
        lost.packs.clear()
    assert list((tmp_path / "down").iterdir()) == []
    assert (slots._staged, trees._staged) == (0, 0)
