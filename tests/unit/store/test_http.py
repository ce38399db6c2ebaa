"""What servers can answer, and the address of one process serving another."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
import tracemalloc
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from buildsvc.errors import (
    ObjectExists,
    ObjectNotFound,
    ShortObject,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    UnreadableObject,
)
from buildsvc.store.http import HttpStore
from buildsvc.store.httpexchange import _expect_sendable
from buildsvc.store.local import LocalStore
from buildsvc.store.timeouts import HttpTimeouts
from perf.objectserver import ObjectServer
from tests.unit.store.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SHORT = HttpTimeouts(total=0.2, connect=0.2, idle=0.2)


@contextlib.asynccontextmanager
async def answering(
    handler: Handler, timeouts: HttpTimeouts | None = None
) -> AsyncIterator[HttpStore]:
    """A store whose server answers everything with ``handler``."""
    app = web.Application()
    app.router.add_route("*", "/{name:.*}", handler)
    async with serving(app) as address:
        store = HttpStore(address, timeouts or HttpTimeouts())
        try:
            yield store
        finally:
            await store.close()


def always(status: int, body: bytes = b"", **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=named)

    return handler


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, StoreRefused),
        (400, StoreRefused),
        (401, StoreRefused),
        (403, StoreRefused),
        (404, ObjectNotFound),
        (405, StoreRefused),
        (408, StoreUnavailable),
        (429, StoreUnavailable),
        (500, StoreUnavailable),
        (501, StoreRefused),
        (502, StoreUnavailable),
        (503, StoreUnavailable),
        (507, StoreRefused),
    ],
)
async def test_statuses_of_reads(status: int, kind: type[StoreError]) -> None:
    async with answering(always(status)) as store:
        for operation in (store.get("a"), store.get_range("a", 0, 1), store.stat("a")):
            with pytest.raises(kind) as caught:
                await operation
            assert type(caught.value) is kind
            assert f"HTTP {status}" in str(caught.value)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("", 0.0, 0.0),
        ("0", 0.0, 0.0),
        ("17", 17.0, 17.0),
        (formatdate(time.time() + 3600, usegmt=True), 3000.0, 3600.0),
        (formatdate(time.time() - 3600, usegmt=True), 0.0, 0.0),
        ("-1", 0.0, 0.0),
        ("soon", 0.0, 0.0),
        ("9" * 5000, 1e6, 1e9),
    ],
    ids=["empty", "none", "seconds", "a date", "a date gone by", "negative", "a word", "endless"],
)
async def test_how_long_the_server_wants_to_be_left_alone(
    status: int, header: str, least: float, most: float
) -> None:
    async with answering(always(status, Retry_After=header)) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await store.get("a")
    assert least <= caught.value.after <= most


@pytest.mark.parametrize("value", ["secret\n", "secret\r\nX: y", "secrét"])
def test_a_header_that_cannot_be_sent_is_not_shown(value: str) -> None:
    """What http.client says of it has the value in it."""
    with pytest.raises(StoreRefused, match="the header x-token cannot be sent") as caught:
        _expect_sendable({"accept": "*", "x-token": value})
    assert "secr" not in str(caught.value)


async def test_a_server_that_does_not_say_how_long_it_wants_to_be_left_alone() -> None:
    async with answering(always(503)) as store:
        with pytest.raises(StoreUnavailable) as caught:
            await store.get("a")
    assert caught.value.after == 0.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (403, StoreRefused),
        (404, StoreRefused),
        (412, ObjectExists),
        (413, StoreRefused),
        (500, StoreUnavailable),
        (507, StoreRefused),
    ],
)
async def test_statuses_of_writes(status: int, kind: type[StoreError]) -> None:
    async with answering(always(status)) as store:
        with pytest.raises(kind):
            await store.create("a", b"data")


async def test_a_redirect_is_not_followed() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with answering(handler) as store:
        with pytest.raises(StoreRefused):
            await store.put("a", b"data")
    assert asked == ["/a"]


async def test_a_server_that_ignores_range_is_refused() -> None:
    async with answering(always(200, b"everything")) as store:
        with pytest.raises(StoreRefused, match="206"):
            await store.get_range("a", 2, 3)


@pytest.mark.parametrize(
    ("content_range", "body", "kind"),
    [
        ("bytes 2-4/10", b"234", None),
        ("bytes 2-4/*", b"234", None),
        ("bytes 2-3/4", b"23", ShortObject),
        ("bytes 1-3/10", b"123", StoreRefused),
        ("bytes 2-9/10", b"23456789", StoreRefused),
        ("bytes 2-4/10", b"2345", StoreRefused),
        ("bytes 2-4/10", b"23", StoreUnavailable),
        ("nonsense", b"234", StoreRefused),
        (f"bytes 2-{'9' * 5000}/*", b"234", StoreRefused),
        (f"bytes {'9' * 5000}-4/*", b"234", StoreRefused),
    ],
)
async def test_ranges_are_compared_with_the_request(
    content_range: str, body: bytes, kind: type[StoreError] | None
) -> None:
    async with answering(always(206, body, Content_Range=content_range)) as store:
        if kind is None:
            assert await store.get_range("a", 2, 3) == b"234"
        else:
            with pytest.raises(kind):
                await store.get_range("a", 2, 3)


async def test_a_body_cut_off_is_unavailable() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"only this")
        assert request.transport is not None
        request.transport.close()
        return response

    async with answering(handler) as store:
        with pytest.raises(StoreUnavailable):
            await store.get("a")


@pytest.mark.parametrize("begin", [False, True])
async def test_a_server_that_stops_answering_is_unavailable(*, begin: bool) -> None:
    never = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        if begin:
            await response.prepare(request)
            await response.write(b"only this")
        await never.wait()
        return response

    async with answering(handler, SHORT) as store:
        with pytest.raises(StoreUnavailable):
            await store.get("a")


async def test_nobody_listens() -> None:
    async with serving(web.Application()) as address:
        pass
    store = HttpStore(address)
    for operation in (store.get("a"), store.create("a", b"")):
        with pytest.raises(StoreUnavailable):
            await operation
    await store.close()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"objects": [], "more": true}',
        b'{"objects": [], "more": 1}',
        b'{"objects": [{"name": "b/a", "size": 1, "modified": null}], "more": false}',
        b'{"objects": [{"name": "a/../b", "size": 1, "modified": null}], "more": false}',
        b'{"objects": [{"name": "a/b", "size": -1, "modified": null}], "more": false}',
        b'{"objects": [{"name": "a/b", "size": "x", "modified": null}], "more": false}',
        b'{"objects": [{"name": "a/b", "size": 1, "modified": null}], "more": true}',
    ],
)
async def test_hostile_listings(body: bytes) -> None:
    async with answering(always(200, body)) as store:
        with pytest.raises(StoreRefused):
            assert [stat async for stat in store.list("a/")] == []


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"objects": [{"name": "a/b", "size": Infinity, "modified": null}], "more": false}',
        b'{"objects": [{"name": "a/b", "size": 1e999, "modified": null}], "more": false}',
        b'{"objects": [{"name": "a/b", "size": 1, "modified": NaN}], "more": false}',
        b'{"objects": [{"name": "a/b", "size": 1, "modified": %s}], "more": false}' % (b"9" * 400),
        b'{"objects": [{"name": "a/b", "size": %s, "modified": 1}], "more": false}' % (b"9" * 5000),
        b'{"objects": [{"name": "a/\\ud800", "size": 1, "modified": 1}], "more": true}',
    ],
    ids=["depth", "size", "large", "nan", "modified", "digits", "surrogate"],
)
async def test_listings_beyond_what_numbers_and_stacks_hold(body: bytes) -> None:
    async with answering(always(200, body)) as store:
        with pytest.raises(StoreRefused):
            assert [stat async for stat in store.list("a/")] == []


@pytest.mark.parametrize(
    "date", ["Thu, 01 Jan 99999999999999999999 00:00:00 GMT", "yesterday", "9" * 5000, ""]
)
async def test_a_date_that_is_none(date: str) -> None:
    async with answering(always(200, b"data", Last_Modified=date)) as store:
        assert (await store.stat("a")).modified is None


async def test_of_an_endless_object_little_more_than_the_limit_is_read() -> None:
    broken = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(bytes(1 << 20))
        finally:
            broken.set()

    async with answering(endless) as store:
        with pytest.raises(UnreadableObject, match="too large"):
            await store.get("a", limit=1000)
        await broken.wait()


async def test_memory_does_not_grow_with_the_object(tmp_path: Path) -> None:
    size = 48 << 20
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(size)
    async with serving(ObjectServer(LocalStore(tmp_path / "served")).application()) as address:
        store = HttpStore(address)
        tracemalloc.start()
        try:
            await store.put_file("a", source)
            with (tmp_path / "target").open("wb") as target:
                assert await store.get_range_to("a", 0, size, target.fileno()) == size
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        await store.close()
    assert peak < 16 << 20


async def test_an_upload_cut_off_is_not_stored(tmp_path: Path) -> None:
    served = LocalStore(tmp_path / "served")
    await served.put("before", b"data")
    async with serving(ObjectServer(served).application()) as address:
        port = int(address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nonly this")
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        assert [stat.name async for stat in served.list("")] == ["before"]


async def test_an_upload_that_is_sent_again_is_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 20_000
    source = tmp_path / "source"
    await asyncio.to_thread(source.write_bytes, data)
    received: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        received.append(await request.content.read(3_000_000 if len(received) == 1 else -1))
        if len(received) == 2:
            # The client cannot tell this from a connection that died while nobody used it.
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=201)

    async with answering(handler) as store:
        await store.put("a", b"data")
        await store.put_file("b", source)
    assert received[0] == b"data"
    assert 0 < len(received[1]) < len(data)
    assert received[2:] == [data]


async def test_the_server_as_a_program(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "perf.objectserver", "--directory", str(tmp_path / "served"),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    store = HttpStore(address)
    await store.create("keys/k/heads/1", b"head")
    assert await store.get("keys/k/heads/1") == b"head"
    await store.close()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
