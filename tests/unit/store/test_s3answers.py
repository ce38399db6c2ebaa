"""What S3 servers can answer, and what is sent to them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
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
from buildsvc.store.s3 import S3Store
from buildsvc.store.s3address import S3Address
from buildsvc.store.timeouts import HttpTimeouts
from tests.minio import CREDENTIALS
from tests.unit.store.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

pytestmark = pytest.mark.usefixtures("s3_environment")

SHORT = HttpTimeouts(total=600, connect=0.2, idle=0.2)


@contextlib.asynccontextmanager
async def answering(
    handler: Handler, timeouts: HttpTimeouts | None = None
) -> AsyncIterator[S3Store]:
    """A store whose server answers everything with ``handler``."""
    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{name:.*}", handler)
    async with serving(app) as endpoint:
        store = S3Store(S3Address("bucket", "base/", endpoint), timeouts or HttpTimeouts())
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture(autouse=True)
def _credentials(s3_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)


def error_body(code: str) -> bytes:
    return (
        f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>Of {code}.</Message></Error>'
    ).encode()


def always(status: int, code: str = "") -> Handler:
    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, body=error_body(code) if code else b"")

    return handler


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (301, "PermanentRedirect", StoreRefused),
        (400, "InvalidRequest", StoreRefused),
        (400, "ExpiredToken", StoreRefused),
        (400, "RequestTimeout", StoreUnavailable),
        (401, "", StoreRefused),
        (403, "AccessDenied", StoreRefused),
        (403, "RequestTimeTooSkewed", StoreRefused),
        (403, "InvalidObjectState", UnreadableObject),
        (404, "NoSuchKey", ObjectNotFound),
        (404, "", ObjectNotFound),
        (404, "NoSuchBucket", StoreRefused),
        (405, "MethodNotAllowed", StoreRefused),
        (408, "", StoreUnavailable),
        (409, "OperationAborted", StoreUnavailable),
        (416, "InvalidRange", ShortObject),
        (429, "TooManyRequests", StoreUnavailable),
        (500, "InternalError", StoreUnavailable),
        (501, "NotImplemented", StoreRefused),
        (502, "", StoreUnavailable),
        (503, "SlowDown", StoreUnavailable),
        (507, "XMinioStorageFull", StoreRefused),
    ],
)
async def test_statuses_of_reads(status: int, code: str, kind: type[StoreError]) -> None:
    async with answering(always(status, code)) as store:
        with pytest.raises(StoreError) as caught:
            await store.get("a")
        assert type(caught.value) is kind
        with pytest.raises(kind):
            await store.get_range("a", 0, 1)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "BadDigest", StoreUnavailable),
        (400, "XAmzContentSHA256Mismatch", StoreUnavailable),
        (403, "AccessDenied", StoreRefused),
        (404, "NoSuchBucket", StoreRefused),
        (409, "ConditionalRequestConflict", StoreUnavailable),
        (412, "PreconditionFailed", ObjectExists),
        (501, "NotImplemented", StoreRefused),
        (503, "SlowDown", StoreUnavailable),
    ],
)
async def test_statuses_of_creates(status: int, code: str, kind: type[StoreError]) -> None:
    async with answering(always(status, code)) as store:
        with pytest.raises(StoreError, match=f"HTTP {status} {code}, Of {code}") as caught:
            await store.create("a", b"data")
        assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(204, "", None), (404, "NoSuchKey", None), (403, "AccessDenied", StoreRefused),
     (404, "NoSuchBucket", StoreRefused), (503, "SlowDown", StoreUnavailable)],
)  # fmt: skip
async def test_statuses_of_deletes(status: int, code: str, kind: type[StoreError] | None) -> None:
    async with answering(always(status, code)) as store:
        with pytest.raises(kind) if kind else contextlib.nullcontext():
            await store.delete("a")


async def test_a_server_that_overwrites_is_found_out_before_anything_is_created() -> None:
    created: list[str] = []

    async def overwrite(request: web.Request) -> web.Response:
        await request.read()
        assert request.headers["If-None-Match"] == "*"
        created.append(request.path)
        return web.Response(headers={"ETag": '"x"'})

    async with answering(overwrite) as store:
        for name in "ab":
            with pytest.raises(StoreRefused, match="overwrites what is to be created"):
                await store.create(name, b"data")
    assert created == ["/bucket/base/.create-only"] * 2


@pytest.mark.parametrize("probed", [[200, 412], [412], [503, 412], [200, 503, 412]])
async def test_a_server_that_does_not_is_asked_once(probed: list[int]) -> None:
    statuses = iter([*probed, 200, 200])
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        asked.append(request.path)
        return web.Response(status=next(statuses), headers={"ETag": '"x"'})

    async with answering(answer) as store:
        if 503 in probed:
            with pytest.raises(StoreUnavailable):
                await store.create("a", b"data")
        async with asyncio.TaskGroup() as group:
            for name in "ab":
                group.create_task(store.create(name, b"data"))
    assert set(asked[: len(probed)]) == {"/bucket/base/.create-only"}
    assert sorted(asked[len(probed) :]) == ["/bucket/base/a", "/bucket/base/b"]


async def test_a_lost_bucket_is_told_from_a_missing_object_once() -> None:
    asked: list[str] = []
    code = "NoSuchBucket"

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.method)
        return web.Response(status=404, body=error_body(code))

    async with answering(answer) as store:
        with pytest.raises(StoreRefused, match="NoSuchBucket"):
            await store.stat("a")
        code = "NoSuchKey"
        for name in "ab":
            with pytest.raises(ObjectNotFound):
                await store.stat(name)
    assert asked == ["HEAD", "GET", "HEAD", "GET", "HEAD"]


async def test_every_body_has_its_checksum_in_the_signature(tmp_path: Path) -> None:
    seen: list[tuple[str, str, str]] = []

    async def take(request: web.Request) -> web.Response:
        body = hashlib.sha256(await request.read()).hexdigest()
        signed = request.headers["Authorization"].partition("SignedHeaders=")[2]
        seen.append((body, request.headers["x-amz-content-sha256"], signed))
        return web.Response(headers={"ETag": '"x"'})

    path = tmp_path / "source"
    await asyncio.to_thread(path.write_bytes, b"file" * 1000)
    async with answering(take) as store:
        await store.put("a", b"data")
        await store.put_file("b", path)
    assert len({body for body, _, _ in seen}) == 2
    for body, sent, signed in seen:
        assert body == sent
        assert "x-amz-content-sha256" in signed


def cut(status: int, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = web.StreamResponse(status=status, headers={**named, "ETag": '"x"'})
        answer.content_length = 1_000_000
        await answer.prepare(request)
        await answer.write(b"x" * 500_000)
        assert request.transport is not None
        request.transport.abort()
        return answer

    return handler


async def test_an_object_that_is_cut_off() -> None:
    async with answering(cut(200)) as store:
        with pytest.raises(StoreUnavailable):
            await store.get("a")


async def test_a_range_that_is_cut_off(tmp_path: Path) -> None:
    async with answering(cut(206, Content_Range="bytes 0-999999/1000000")) as store:
        with pytest.raises(StoreUnavailable):
            await store.get_range("a", 0, 1_000_000)
        with (tmp_path / "target").open("wb") as target, pytest.raises(StoreUnavailable):
            await store.get_range_to("a", 0, 1_000_000, target.fileno())


async def test_a_server_without_ranges() -> None:
    async def everything(_: web.Request) -> web.Response:
        return web.Response(body=b"0123456789", headers={"ETag": '"x"'})

    async with answering(everything) as store:
        with pytest.raises(StoreRefused, match="not that of an S3 server"):
            await store.get_range("a", 2, 3)


async def test_another_range_than_was_asked_for() -> None:
    async def another(_: web.Request) -> web.Response:
        headers = {"Content-Range": "bytes 3-5/10", "ETag": '"x"'}
        return web.Response(status=206, body=b"345", headers=headers)

    async with answering(another) as store:
        with pytest.raises(StoreRefused, match="not that of an S3 server"):
            await store.get_range("a", 2, 3)


@pytest.mark.parametrize("body", [b"01", b"0123456789"])
async def test_another_body_than_was_announced(tmp_path: Path, body: bytes) -> None:
    async def handler(_: web.Request) -> web.Response:
        headers = {"Content-Range": "bytes 0-4/10", "ETag": '"x"'}
        return web.Response(status=206, body=body, headers=headers)

    path = tmp_path / "target"
    await asyncio.to_thread(path.write_bytes, b"-" * 20)
    async with answering(handler) as store:
        with pytest.raises(StoreUnavailable, match="expected: 5 bytes"):
            await store.get_range("a", 0, 5)
        with path.open("r+b") as target, pytest.raises(StoreUnavailable):
            await store.get_range_to("a", 0, 5, target.fileno())
    # What is beside the range belongs to others.
    assert (await asyncio.to_thread(path.read_bytes))[5:] == b"-" * 15


async def test_a_range_that_does_not_end_is_not_read(tmp_path: Path) -> None:
    broken = asyncio.Queue[None]()

    async def endless(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Range": "bytes 0-4/10", "ETag": '"x"', "Content-Length": f"{1 << 50}"}
        answer = web.StreamResponse(status=206, headers=headers)
        await answer.prepare(request)
        try:
            while True:
                await answer.write(bytes(1 << 20))
        finally:
            broken.put_nowait(None)

    async with answering(endless) as store:
        with pytest.raises(StoreUnavailable, match="expected: 5 bytes"):
            await store.get_range("a", 0, 5)
        await broken.get()
        with (tmp_path / "target").open("wb") as target, pytest.raises(StoreUnavailable):
            await store.get_range_to("a", 0, 5, target.fileno())
        await broken.get()


def listed(*keys: str) -> Handler:
    contents = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>x</ETag><Size>1</Size></Contents>"
        for key in keys
    )
    body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"

    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=body, content_type="application/xml")

    return handler


async def test_what_others_have_put_below_the_prefix() -> None:
    async with answering(listed("base/", "base/A", "base/a", "base/a%20b")) as store:
        assert [stat.name async for stat in store.list("")] == ["a"]


async def test_a_list_that_is_out_of_order_is_refused() -> None:
    async with answering(listed("base/a", "base/c", "base/b")) as store:
        with pytest.raises(StoreRefused, match="not in order"):
            assert [stat async for stat in store.list("")] == []


@pytest.mark.parametrize("key", ["base/A", "base/"])
async def test_a_list_that_repeats_itself_is_refused(key: str) -> None:
    """Also of what is not ours, or it would never end."""

    async def handler(_: web.Request) -> web.Response:
        body = (
            "<ListBucketResult><IsTruncated>true</IsTruncated>"
            "<NextContinuationToken>more</NextContinuationToken><Contents>"
            f"<Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            "<ETag>x</ETag><Size>1</Size></Contents></ListBucketResult>"
        )
        return web.Response(text=body, content_type="application/xml")

    async with answering(handler) as store:
        with pytest.raises(StoreRefused, match="not in order"):
            assert [stat async for stat in store.list("")] == []


async def test_a_directorys_mark_may_come_after_what_is_greater_without_its_slash() -> None:
    async with answering(listed("base/a-b", "base/a/", "base/a/b")) as store:
        assert [stat.name async for stat in store.list("")] == ["a-b", "a/b"]


@pytest.mark.parametrize("key", ["base//a", "base/../a"])
async def test_a_key_that_has_no_path_is_named(key: str) -> None:
    async with answering(listed("base/a", key)) as store:
        with pytest.raises(StoreRefused, match=f"cannot be listed.*{re.escape(key)}"):
            assert [stat async for stat in store.list("")] == []


@pytest.mark.parametrize("body", ["<html>", "no XML", '{"objects": []}'])
async def test_a_list_of_something_else(body: str) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text=body)

    async with answering(handler) as store:
        with pytest.raises(StoreError):
            assert [stat async for stat in store.list("")] == []


async def hang(request: web.Request) -> web.Response:
    await request.read()
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def test_a_server_that_stands_still() -> None:
    async with answering(hang, SHORT) as store:
        with pytest.raises(StoreUnavailable, match="timed out"):
            await store.get("a")
        with pytest.raises(StoreUnavailable, match="took too long"):
            await store.put("a", b"data")


async def test_a_slow_upload_does_not_stand_still() -> None:
    async def slow(request: web.Request) -> web.Response:
        async for _ in request.content.iter_chunked(1 << 20):
            await asyncio.sleep(0.05)
        return web.Response(headers={"ETag": '"x"'})

    async with answering(slow, SHORT) as store:
        await store.put("a", bytes(8 << 20))


async def test_a_cancelled_call_gives_its_place_back() -> None:
    asked = asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        asked.set()
        return await hang(request)

    app = web.Application()
    app.router.add_route("*", "/{name:.*}", handler)
    async with serving(app) as endpoint:
        store = S3Store(S3Address("bucket", endpoint=endpoint), connections=1)
        task = asyncio.create_task(store.get("a"))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        asked.clear()
        task = asyncio.create_task(store.get("a"))
        await asked.wait()
        task.cancel()
        await asyncio.wait([task])
        await store.close()


async def test_nobody_there() -> None:
    store = S3Store(S3Address("bucket", endpoint="http://127.0.0.1:1"))
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        await store.get("a")
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        await store.put("a", b"data")
    await store.close()
