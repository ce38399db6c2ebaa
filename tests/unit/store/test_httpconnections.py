"""When connections are used again, given up and cut, and what becomes of the threads on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import ssl
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.errors import (
    ConfigError,
    ObjectExists,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from buildsvc.store import httpconnection
from buildsvc.store.http import HttpStore
from buildsvc.store.httpconnection import Call
from buildsvc.store.local import LocalStore
from buildsvc.store.timeouts import HttpTimeouts
from perf.objectserver import ObjectServer
from sidecar.certificates import make_certificates
from tests.unit.cache.fakes import make_root
from tests.unit.store.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.tls import Certificates

    Talk = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: So long that a thread which waits for one of them fails the test by the test's own limit.
LONG = HttpTimeouts(total=1000, connect=1000, idle=1000)
HEAD_OF_TEN = b"HTTP/1.1 206 x\r\nContent-Length: 10\r\nContent-Range: bytes 0-9/10\r\n\r\n"
DATA = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndata"


@contextlib.asynccontextmanager
async def talking(talk: Talk, connections: int = 16) -> AsyncIterator[HttpStore]:
    """A store whose server is ``talk``, told the number of the connection from 1."""
    talks: list[asyncio.Task[None] | None] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        try:
            await talk(len(talks), reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        store = HttpStore(f"http://127.0.0.1:{port}", LONG, connections)
        try:
            yield store
        finally:
            await store.close()
            # All of them end, because the store has hung up.
            await asyncio.gather(*filter(None, talks))


async def request(reader: asyncio.StreamReader) -> bytes:
    """The head of the next request; empty when the client hung up."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


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


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (b"413 Too Large", StoreRefused),
        # It has not got the bytes, whatever it says.
        (b"201 Created", StoreUnavailable),
    ],
)
async def test_a_server_that_hangs_up_on_an_upload_is_listened_to(
    status: bytes, error: type[StoreError]
) -> None:
    async def talk(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    async with talking(talk) as store:
        with pytest.raises(error) as caught:
            await store.put("a", bytes(32 << 20))
    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (b"4\r\n0123\r\n3;x=y\r\n456\r\n0\r\n\r\n", b"0123456"),
        (b"4\r\n0123\r\n3\r\n45", None),
        (b"-1\r\n" + b"x" * (3 << 20), None),
        (b"many\r\n", None),
    ],
)
async def test_chunked_answers(chunks: bytes, expected: bytes | None) -> None:
    async def talk(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async with talking(talk) as store:
        if expected is not None:
            assert await store.get("a") == expected
        else:
            with pytest.raises(StoreUnavailable):
                await store.get("a")


@pytest.mark.parametrize("length", [b"9" * 5000, b"-1", b"many"])
async def test_a_length_that_is_none(length: bytes) -> None:
    async def talk(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n")

    async with talking(talk) as store:
        with pytest.raises(StoreRefused, match="HEAD answer with Content-Length"):
            await store.stat("a")


@pytest.mark.parametrize("length", [b"", b"Content-Length: %s\r\n" % (b"9" * 5000)])
async def test_an_answer_that_ends_with_the_connection_may_be_cut_off(length: bytes) -> None:
    async def talk(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\nonly thi")

    async with talking(talk) as store:
        with pytest.raises(StoreUnavailable, match="may have arrived cut off"):
            await store.get("a")
        with pytest.raises(StoreUnavailable, match="may have arrived cut off"):
            assert [stat async for stat in store.list("a")] == []


async def test_a_slow_resolver_takes_no_time_from_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    resolve = socket.getaddrinfo

    def slow(host: str, port: int, *, type: int) -> object:  # noqa: A002  the callee's name
        nonlocal now
        now += LONG.connect
        return resolve(host, port, type=type)

    async def talk(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(DATA)

    limits = []
    wait = httpconnection._wait

    def waiting(sock: socket.socket, begun: int, timeout: float) -> None:
        limits.append(timeout)
        wait(sock, begun, timeout)

    monkeypatch.setattr(httpconnection, "_wait", waiting)
    # Its clock alone, not that of the event loop.
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(httpconnection, "time", clock)
    async with talking(talk) as store:
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        assert await store.get("a") == b"data"
    assert (now, limits) == (LONG.connect, [LONG.connect])


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "server", tmp_path / "client")


async def test_tls(made: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)
    data = os.urandom(3 << 20)
    source = tmp_path / "source"
    await asyncio.to_thread(source.write_bytes, data)
    server = ObjectServer(LocalStore(tmp_path / "served"))
    async with serving(server.application(), context) as address:
        monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))
        store = HttpStore(address)
        await store.put_file("a", source)
        with (tmp_path / "target").open("w+b") as target:
            await store.get_range_to("a", 1, len(data) - 1, target.fileno())
            assert await asyncio.to_thread(target.read) == data[1:]
        await store.close()

        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "absent"))
        distrustful = HttpStore(address)
        with pytest.raises(StoreRefused, match="install the authority"):
            await distrustful.get("a")
        await distrustful.close()


async def test_a_server_without_tls_is_no_https_server() -> None:
    async def talk(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with talking(talk) as plain:
        store = HttpStore(plain._origin.address.replace("http:", "https:"), LONG)
        with pytest.raises(StoreRefused, match="no trusted connection"):
            await store.get("a")
        await store.close()


@pytest.mark.parametrize("address", ["http://host:port", "http://host:65536/a", "ftp://host"])
def test_addresses_of_nothing(address: str) -> None:
    with pytest.raises(ConfigError, match="not the address of an object server"):
        HttpStore(address)


async def test_a_host_name_that_cannot_be() -> None:
    store = HttpStore("http://" + "x" * 64 + ".invalid")
    with pytest.raises(StoreUnavailable):
        await store.get("a")
    await store.close()
