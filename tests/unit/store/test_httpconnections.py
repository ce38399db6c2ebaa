"""When connections are used again, given up and cut, and what becomes of the threads on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.errors import ObjectExists, StoreUnavailable
from buildsvc.store.http import HttpStore
from buildsvc.store.httpconnection import Call
from tests.unit.cache.fakes import make_root
from tests.unit.store.talking import DATA, HEAD_OF_TEN, LONG, request, talking

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_cancelled_download_frees_its_thread_and_its_connection(tmp_path: Path) -> None:
    begun, hung_up = asyncio.Event(), asyncio.Event()
    served: list[int] = []

    async def talk(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request(reader):
            served.append(number)
            writer.write(DATA if len(served) > 1 else HEAD_OF_TEN + b"part")
            begun.set()
        hung_up.set()

    before = len(os.listdir("/proc/self/fd"))
    async with talking(talk, connections=1) as store:
        with (tmp_path / "target").open("wb") as target:
            task = asyncio.create_task(store.get_range_to("a", 0, 10, target.fileno()))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await hung_up.wait()
        assert await store.get("a") == b"data", "the one thread is free again"
        assert await store.get("a") == b"data"
        assert served == [1, 2, 2], "the connection that was cut is not used again"
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_cancelled_download_writes_nothing_into_a_reused_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    reached, written = asyncio.Event(), asyncio.Event()
    go = threading.Event()
    pwrite = os.pwrite

    def held(fd: int, data: bytes, at: int) -> int:
        loop.call_soon_threadsafe(reached.set)
        go.wait()
        try:
            return pwrite(fd, data, at)
        finally:
            loop.call_soon_threadsafe(written.set)

    async def talk(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(HEAD_OF_TEN + b"0123456789")
        await reader.read()

    async with talking(talk) as store:
        target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
        monkeypatch.setattr(os, "pwrite", held)
        task = asyncio.create_task(store.get_range_to("a", 0, 10, target))
        try:
            await reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            os.close(target)
            other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
            assert other == target, "the number is used again"
        finally:
            # The thread would keep the interpreter from ending.
            go.set()
        await written.wait()
        assert os.pread(other, 10, 0) == b""
        os.close(other)


async def test_a_cancelled_call_does_not_go_on_connecting(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()
    watch = Call.watch

    def watched(self: Call, handle: socket.socket) -> None:
        watch(self, handle)
        loop.call_soon_threadsafe(begun.set)

    monkeypatch.setattr(Call, "watch", watched)
    with contextlib.ExitStack() as stack:
        deaf = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # More than its queue takes: whoever comes now gets no answer to his first packet.
        fillers = [stack.enter_context(socket.socket()) for _ in range(4)]
        for filler in fillers:
            filler.settimeout(0)
            filler.connect_ex(deaf.getsockname())
        with pytest.raises(OSError, match="not connected"):
            fillers[-1].getpeername()
        store = HttpStore(f"http://127.0.0.1:{deaf.getsockname()[1]}", LONG)
        before = len(os.listdir("/proc/self/fd"))
        task = asyncio.create_task(store.get("a"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(store._threads._executor.shutdown)
        assert len(os.listdir("/proc/self/fd")) == before
        await store.close()


async def test_a_connection_is_used_again() -> None:
    served: list[int] = []

    async def talk(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await request(reader):
            served.append(number)
            status = b"404 Not Found" if b"absent" in head else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 4\r\n\r\ndata")

    async with talking(talk) as store:
        await store.get("a")
        await store.delete("absent")
        await store.get("a")
    assert served == [1, 1, 1]


async def test_a_connection_that_was_idle_for_long_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildsvc.store.httpexchange.KEPT", -1)
    served: list[int] = []

    async def talk(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request(reader):
            served.append(number)
            writer.write(DATA)

    async with talking(talk) as store:
        await store.get("a")
        await store.get("a")
    assert served == [1, 2]


async def test_a_kept_connection_that_is_dead_is_replaced_once() -> None:
    served: list[int] = []

    async def talk(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await request(reader):
            served.append(number)
            if served in ([1, 1], [1, 1, 2, 2], [1, 1, 2, 2, 3]):
                return
            writer.write(DATA)

    async with talking(talk) as store:
        await store.get("a")
        assert await store.get("a") == b"data"
        assert served == [1, 1, 2]
        with pytest.raises(StoreUnavailable, match="RemoteDisconnected"):
            await store.get("a")
    assert served == [1, 1, 2, 2, 3]


class Forgetful:
    """A server that hangs up instead of answering the creation of an object, once done."""

    def __init__(self) -> None:
        self.objects: dict[bytes, bytes] = {}
        self.created: list[int] = []

    async def talk(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while head := await request(reader):
            method, name, _ = head.split(b" ", 2)
            if method in (b"GET", b"HEAD"):
                data = self.objects[name]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data))
                writer.write(data if method == b"GET" else b"")
                continue
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length is not None
            data = await reader.readexactly(int(length[1]))
            there = name in self.objects
            if b"If-None-Match: *" in head:
                self.created.append(number)
                self.objects.setdefault(name, data)
                if not there:
                    return
            else:
                self.objects[name] = data
            status = b"412 Precondition Failed" if there else b"201 Created"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")


async def test_a_creation_that_is_sent_again_finds_its_own_object() -> None:
    server = Forgetful()
    async with talking(server.talk) as store:
        await store.put("before", b"so that a connection is kept")
        with pytest.raises(ObjectExists):
            await store.create("a", b"data")
        assert await store.get("a") == b"data"
    assert server.created == [1, 2]


async def test_a_publication_that_is_sent_again_is_one(tmp_path: Path) -> None:
    server = Forgetful()
    root = await asyncio.to_thread(make_root, tmp_path)
    key = CacheKey("acme", "protected", "app/main", "linux-amd64", "buildkit-0.33")
    async with talking(server.talk) as store:
        published = await GenerationLog(store, key).publish(root, parent=None)
        assert await GenerationLog(store, key).read(1) == published
    assert server.created == [1, 2]


async def test_a_new_connection_that_dies_is_an_error() -> None:
    served: list[int] = []

    async def talk(number: int, reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await request(reader)
        served.append(number)

    async with talking(talk) as store:
        with pytest.raises(StoreUnavailable, match="RemoteDisconnected"):
            await store.get("a")
    assert served == [1]
