"""What can go wrong between the store and OSS, and what the caller sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import time
import traceback
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
from buildsvc.store.crc64 import crc_of
from buildsvc.store.retry import RetryingStore
from buildsvc.store.timeouts import HttpTimeouts
from tests.ossserver.faults import Cut, Flip, Hold, LoseAnswer, Reset, Say
from tests.ossserver.server import Key
from tests.unit.store.ossserving import KEY, Given, oss_endpoint, oss_server, oss_store, store_at
from tests.unit.store.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from buildsvc.store.oss import OssStore
    from tests.ossserver.faults import Fault
    from tests.ossserver.server import OssServer

VERSIONING = "GET ?versioning"
LIST = "GET ?list"
NAMESPACED = """<?xml version="1.0" encoding="UTF-8"?>
<VersioningConfiguration xmlns="http://doc.oss-cn-hangzhou.aliyuncs.com">
    <Status>Suspended</Status>
</VersioningConfiguration>"""
SHORT = HttpTimeouts(total=0.5, connect=1000, idle=1000)
LONG = HttpTimeouts(total=1000, connect=1000, idle=1000)


@pytest.fixture
def server() -> OssServer:
    return oss_server()


@pytest.fixture
async def store(server: OssServer) -> AsyncIterator[OssStore]:
    async with oss_store(server) as store:
        yield store


async def no_wait(seconds: float) -> None:
    del seconds


async def test_keys_lie_below_the_prefix_and_the_region_is_signed(
    server: OssServer, store: OssStore
) -> None:
    await store.put("a/b", b"data")
    assert list(server.bucket.objects) == ["ci/cache/a/b"]
    sent = server.headers[-1]
    assert "/cn-test/oss/aliyun_v4_request" in sent["authorization"]
    assert sent["host"].startswith("test-bucket.oss.test:")
    assert sent["x-oss-security-token"] == KEY.token
    assert sent["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("state", ["Enabled", "Suspended"])
async def test_a_bucket_with_versioning_is_refused_at_the_first_use(
    server: OssServer, store: OssStore, state: str
) -> None:
    server.bucket.versioning = state
    operations: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: store.create("a", b"data"),
        lambda: store.put("a", b"data"),
        lambda: store.get("a"),
        lambda: anext(aiter(store.list(""))),
    )
    for operation in operations:
        with pytest.raises(StoreRefused, match=f"versioning.*{state}.*another bucket"):
            await operation()
    assert server.bucket.objects == {}


async def test_versioning_that_is_switched_on_later_is_seen_by_the_next_create(
    server: OssServer, store: OssStore
) -> None:
    await store.create("a", b"data")
    server.bucket.versioning = "Enabled"
    with pytest.raises(StoreRefused, match="versioning"):
        await store.create("b", b"data")
    # Nobody else's head is overwritten after it.
    with pytest.raises(StoreRefused, match="versioning"):
        await store.create("a", b"other")
    assert server.bucket.objects["ci/cache/a"].data == b"data"


async def test_a_bucket_that_overwrites_is_found_out_before_anything_is_created(
    server: OssServer, store: OssStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = server.bucket.put

    def overwriting(
        key: str, data: bytes, headers: Mapping[str, str], now: float
    ) -> dict[str, str]:
        kept = {name: value for name, value in headers.items() if "forbid" not in name}
        return put(key, data, kept, now)

    monkeypatch.setattr(server.bucket, "put", overwriting)
    for name in "ab":
        with pytest.raises(StoreRefused, match="overwrites what is to be created"):
            await store.create(name, b"data")
    assert list(server.bucket.objects) == ["ci/cache/.create-only"]
    assert [kind for kind, _ in server.requests].count("PUT") == 2


async def test_a_bucket_is_asked_for_its_versioning_once(
    server: OssServer, store: OssStore
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(store.put(f"a/{number}", b"data"))
    assert [kind for kind, _ in server.requests].count(VERSIONING) == 1


async def test_a_bucket_that_could_not_be_asked_is_asked_again(
    server: OssServer, store: OssStore
) -> None:
    server.script.add(VERSIONING, Reset(), Say(403, "AccessDenied"))
    with pytest.raises(StoreUnavailable):
        await store.put("a", b"data")
    with pytest.raises(StoreRefused, match="AccessDenied"):
        await store.put("a", b"data")
    assert server.bucket.objects == {}
    await store.put("a", b"data")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (301, "PermanentRedirect", StoreRefused),
        (400, "InvalidArgument", StoreRefused),
        (400, "RequestTimeout", StoreUnavailable),
        (400, "InvalidDigest", StoreUnavailable),
        (403, "AccessDenied", StoreRefused),
        (403, "RequestTimeTooSkewed", StoreRefused),
        (403, "UserDisable", StoreRefused),
        (404, "NoSuchBucket", StoreRefused),
        (409, "FileImmutable", StoreRefused),
        (429, "QpsLimitExceeded", StoreUnavailable),
        (500, "InternalError", StoreUnavailable),
        (501, "NotImplemented", StoreRefused),
        (503, "TotalQpsLimitExceeded", StoreUnavailable),
    ],
)
async def test_what_codes_mean(
    server: OssServer, store: OssStore, status: int, code: str, kind: type[StoreError]
) -> None:
    for method, operation in (
        ("PUT", store.create("a", b"data")),
        ("PUT", store.put("a", b"data")),
        ("GET", store.get("a")),
        (LIST, anext(aiter(store.list("")))),
    ):
        server.script.add(method, Say(status, code, {"x-oss-request-id": "5C3D"}))
        with pytest.raises(kind, match=f"HTTP {status} {code}.*5C3D") as caught:
            await operation
        assert type(caught.value) is kind
    assert server.bucket.objects == {}


async def test_an_object_in_an_archive_is_one_that_cannot_be_read(
    server: OssServer, store: OssStore
) -> None:
    for operation in (store.get("a"), store.get_range("a", 0, 1)):
        server.script.add("GET", Say(403, "InvalidObjectState"))
        with pytest.raises(UnreadableObject, match="archive"):
            await operation


async def test_a_missing_object_needs_a_code_where_there_is_one(
    server: OssServer, store: OssStore
) -> None:
    """Something else than OSS may answer 404 to everything."""
    server.script.add("GET", Say(404, ""), Say(404, "NoSuchKey"))
    with pytest.raises(StoreRefused):
        await store.get("a")
    with pytest.raises(ObjectNotFound):
        await store.get("a")
    server.script.add("HEAD", Say(404, ""))
    with pytest.raises(ObjectNotFound):
        await store.stat("a")
    server.script.add(LIST, Say(404, "NoSuchKey"))
    with pytest.raises(StoreRefused):
        await anext(aiter(store.list("")))


async def test_a_put_that_may_not_overwrite_is_no_create(
    server: OssServer, store: OssStore
) -> None:
    server.script.add("PUT", Say(409, "FileAlreadyExists"))
    with pytest.raises(StoreRefused, match="FileAlreadyExists"):
        await store.put("a", b"data")


@pytest.mark.parametrize(
    ("headers", "after"),
    [
        ({}, 0.0),
        ({"x-oss-qos-delay-time": "1500"}, 1.5),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "7", "x-oss-qos-delay-time": "9000"}, 9.0),
        ({"x-oss-qos-delay-time": "soon"}, 0.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_how_long_oss_wants_to_be_left_alone(
    server: OssServer, store: OssStore, status: int, headers: dict[str, str], after: float
) -> None:
    server.script.add("GET", Say(status, "QpsLimitExceeded", headers))
    with pytest.raises(StoreUnavailable) as caught:
        await store.get("a")
    assert caught.value.after == after


async def test_the_one_layer_of_retries_waits_as_long_as_oss_asks(server: OssServer) -> None:
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    def clock() -> float:
        return sum(waited)

    throttled = Say(503, "TotalQpsLimitExceeded", {"x-oss-qos-delay-time": "20000"})
    server.script.add("PUT", throttled, throttled)
    async with oss_store(server) as store:
        await RetryingStore(store, sleep=wait, clock=clock).put("a", b"data")
    assert [kind for kind, _ in server.requests].count("PUT") == 3
    assert all(20.0 < seconds < 21.0 for seconds in waited)
    assert len(waited) == 2


@pytest.mark.parametrize("fault", [Reset(), LoseAnswer()])
async def test_a_broken_connection_leaves_a_write_open(
    server: OssServer, store: OssStore, fault: Fault
) -> None:
    await store.create("before", b"")
    # The first connection was kept, may have been dead before, and is not counted.
    server.script.add("PUT", fault, fault)
    with pytest.raises(StoreUnavailable):
        await store.create("a", b"data")
    assert ("ci/cache/a" in server.bucket.objects) is isinstance(fault, LoseAnswer)


async def test_a_connection_that_died_while_nobody_used_it_costs_nothing(
    server: OssServer, store: OssStore
) -> None:
    await store.create("before", b"")
    server.script.add("PUT", Reset())
    await store.create("a", b"data")
    assert await store.get("a") == b"data"


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_lost_answer_shows_the_writer_its_own_object(
    server: OssServer, store: OssStore, lost: int
) -> None:
    await store.create("before", b"")
    server.script.add("PUT", *[LoseAnswer()] * lost)
    with pytest.raises(ObjectExists):
        await RetryingStore(store, sleep=no_wait).create("head", b"my nonce")
    assert await store.get("head") == b"my nonce"


async def test_one_of_many_publishers_wins_on_a_bad_network(
    server: OssServer, store: OssStore
) -> None:
    retrying = RetryingStore(store, sleep=no_wait)

    async def publish(head: str, nonce: bytes) -> bytes | None:
        try:
            await retrying.create(head, nonce)
        except ObjectExists:
            return nonce if await retrying.get(head) == nonce else None
        return nonce

    for number in range(10):
        head = f"heads/{number:020}"
        server.script.add("PUT", LoseAnswer(), Reset(), Say(503, "Busy"), Flip(), LoseAnswer())
        server.script.add("GET", Reset(), Flip(), Cut(3))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(publish(head, b"nonce %d" % who)) for who in range(16)]
        winners = [task.result() for task in tasks if task.result() is not None]
        assert winners == [server.bucket.objects[f"ci/cache/{head}"].data]


async def test_a_put_outlives_lost_answers_and_resets(
    server: OssServer, store: OssStore, tmp_path: Path
) -> None:
    path = tmp_path / "pack"
    await asyncio.to_thread(path.write_bytes, b"0123456789" * 100_000)
    server.script.add("PUT", LoseAnswer(), Reset(), LoseAnswer())
    retrying = RetryingStore(store, sleep=no_wait)
    await retrying.put_file("a", path)
    assert await retrying.get("a") == b"0123456789" * 100_000
    server.script.add("DELETE", LoseAnswer())
    await retrying.delete("a")
    assert server.bucket.objects == {}


async def test_what_arrives_with_other_bytes_is_sent_again(
    server: OssServer, store: OssStore
) -> None:
    server.script.add("PUT", Flip())
    with pytest.raises(StoreUnavailable, match="other bytes; expected: CRC-64"):
        await store.put("a", b"data")
    server.script.add("PUT", Flip())
    await RetryingStore(store, sleep=no_wait).put("a", b"data")
    assert server.bucket.objects["ci/cache/a"].data == b"data"


async def test_a_create_with_other_bytes_is_not_stored(server: OssServer, store: OssStore) -> None:
    await store.create("before", b"")
    server.script.add("PUT", Flip())
    with pytest.raises(StoreUnavailable, match="InvalidDigest"):
        await store.create("head", b"my nonce")
    assert "ci/cache/head" not in server.bucket.objects
    server.script.add("PUT", Flip())
    await RetryingStore(store, sleep=no_wait).create("head", b"my nonce")
    assert server.bucket.objects["ci/cache/head"].data == b"my nonce"


async def test_what_is_read_with_other_bytes_is_read_again(
    server: OssServer, store: OssStore
) -> None:
    await store.put("a", b"data")
    server.script.add("GET", Flip())
    with pytest.raises(StoreUnavailable, match="other bytes"):
        await store.get("a")
    server.script.add("GET", Flip())
    assert await RetryingStore(store, sleep=no_wait).get("a") == b"data"


@pytest.mark.parametrize("keep", [0, 1, 99_999])
async def test_a_body_that_is_cut_off_is_not_taken_for_the_whole(
    server: OssServer, store: OssStore, tmp_path: Path, keep: int
) -> None:
    await store.put("a", b"x" * 100_000)
    with (tmp_path / "target").open("wb") as target:
        for operation in (
            store.get("a"),
            store.get_range("a", 0, 100_000),
            store.get_range_to("a", 0, 100_000, target.fileno()),
        ):
            server.script.add("GET", Cut(keep))
            with pytest.raises(StoreUnavailable):
                await operation


async def test_a_list_that_is_cut_off_is_asked_for_again(
    server: OssServer, store: OssStore
) -> None:
    names = [f"heads/{number:04}" for number in range(1203)]
    for name in names:
        server.bucket.put(f"ci/cache/{name}", b"", {}, time.time())
    server.script.add(LIST, Cut(500))
    with pytest.raises(StoreUnavailable):
        await anext(aiter(store.list("heads/")))
    server.script.add(LIST, Cut(500))
    retrying = RetryingStore(store, sleep=no_wait)
    assert [stat.name async for stat in retrying.list("heads/")] == names


async def test_the_list_tells_size_and_time(server: OssServer, store: OssStore) -> None:
    server.bucket.put("ci/cache/a", b"12345", {}, 1700000000.0)
    assert [(s.size, s.modified) async for s in store.list("")] == [(5, 1700000000.0)]
    assert (await store.stat("a")).modified == 1700000000.0


@contextlib.asynccontextmanager
async def answering(document: str, body: bytes = b"data") -> AsyncIterator[OssStore]:
    """A store whose server answers with ``document`` how its versioning is, else with ``body``."""

    async def handler(request: web.Request) -> web.Response:
        versioning = "versioning" in request.query
        return web.Response(body=document.encode() if versioning else body)

    application = web.Application()
    application.router.add_route("*", "/{name:.*}", handler)
    async with serving(application) as address, oss_endpoint(oss_server()) as endpoint:
        store = store_at(f"{endpoint.rpartition(':')[0]}:{address.rpartition(':')[2]}")
        yield store
        await store.close()


async def test_an_object_without_a_crc_is_read_and_an_answer_without_one_is_no_store() -> None:
    """Objects older than the feature have none; PutObject always tells one."""
    async with answering("<VersioningConfiguration/>") as store:
        assert await store.get("a") == b"data"
        with pytest.raises(StoreRefused, match="x-oss-hash-crc64ecma"):
            await store.put("a", b"data")
        for name in "ab":
            with pytest.raises(StoreRefused, match="x-oss-hash-crc64ecma"):
                await store.create(name, b"data")


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ("<html><body>Sign in</body>", "not that of OSS"),
        ("<html/>", "not that of OSS"),
        ("", "not that of OSS"),
        (NAMESPACED, "versioning Suspended"),
    ],
)
async def test_what_does_not_say_that_there_is_no_versioning(document: str, found: str) -> None:
    async with answering(document) as store:
        with pytest.raises(StoreRefused, match=found):
            await store.get("a")


def listing(*keys: str, token: str = "") -> bytes:
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-11-21T00:00:00.000Z</LastModified>"
        "<ETag>1</ETag><Type>Normal</Type><Size>1</Size><StorageClass>Standard</StorageClass>"
        "</Contents>"
        for key in keys
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    end = more if token else "<IsTruncated>false</IsTruncated>"
    return f"<ListBucketResult>{end}{entries}</ListBucketResult>".encode()


async def test_a_list() -> None:
    async with answering(
        "<VersioningConfiguration/>", listing("ci/cache/a", "ci/cache/b")
    ) as store:
        assert [stat.name async for stat in store.list("")] == ["a", "b"]


@pytest.mark.parametrize(
    "document",
    [
        b"<html/>",
        b"",
        listing("ci/cache/b", "ci/cache/a"),
        listing("ci/other/a"),
        # The same part again and again.
        listing("ci/cache/a", token="next"),
        listing(token="next"),
        listing("ci/cache/a", token=" ").replace(b"> </Next", b"></Next"),
    ],
)
async def test_what_is_no_list(document: bytes) -> None:
    async with answering("<VersioningConfiguration/>", document) as store:
        with pytest.raises(StoreRefused, match="not that of"):
            assert [stat.name async for stat in store.list("")] == []


@pytest.mark.parametrize(
    ("address", "key", "found"),
    [
        (
            "oss://test-bucket?region=cn-test",
            Key("LTAI-test", "wrong secret", KEY.token),
            "SignatureDoesNot",
        ),
        ("oss://test-bucket?region=cn-test", Key("LTAI-other", KEY.secret), "InvalidAccessKeyId"),
        ("oss://test-bucket?region=cn-test", Key(KEY.key_id, KEY.secret), "InvalidSecurityToken"),
        ("oss://test-bucket?region=cn-other", KEY, "Invalid signing region"),
        ("oss://other-bucket?region=cn-test", KEY, "NoSuchBucket"),
    ],
)
async def test_wrong_settings_are_refused_without_their_secrets(
    server: OssServer, address: str, key: Key, found: str
) -> None:
    async with oss_endpoint(server) as endpoint:
        store = store_at(endpoint, Given(key), address=address)
        with pytest.raises(StoreRefused, match=f"{found}.*what to do") as caught:
            await store.get("a")
        await store.close()
    shown = "".join(traceback.format_exception(caught.value))
    secrets = [secret for secret in (key.secret, key.token, KEY.token, KEY.secret) if secret]
    assert not any(secret in shown for secret in secrets)
    # Not hidden in a chain either, which some loggers follow.
    assert caught.value.__context__ is None


@pytest.mark.parametrize("ahead", [-3600, 3600])
async def test_a_wrong_clock_is_named(server: OssServer, store: OssStore, ahead: int) -> None:
    server.clock = lambda: time.time() + ahead
    with pytest.raises(StoreRefused, match=r"RequestTimeTooSkewed.*clock"):
        await store.get("a")


async def test_nothing_that_oss2_logs_comes_out(
    server: OssServer, store: OssStore, caplog: pytest.LogCaptureFixture
) -> None:
    await store.put("a", b"data")
    loggers = [name for name in logging.root.manager.loggerDict if name.startswith("oss2")]
    assert {"oss2", "oss2.api", "oss2.auth", "oss2.http"} <= set(loggers)
    # As somebody may do who looks for a fault.
    for name in ("", *loggers):
        caplog.set_level(logging.DEBUG, name)
    await store.put("a", b"data")
    await store.delete("a")
    server.script.add("GET", Say(403, "AccessDenied"))
    with pytest.raises(StoreRefused):
        await store.get("a")
    assert [record for record in caplog.records if record.name.startswith("oss2")] == []
    assert KEY.token not in caplog.text


async def test_a_call_that_takes_too_long_is_ended_and_its_thread_free(server: OssServer) -> None:
    async with oss_endpoint(server) as endpoint:
        store = store_at(endpoint, timeouts=LONG, connections=1)
        await store.put("a", b"data")
        await store.close()
        slow = store_at(endpoint, timeouts=SHORT, connections=1)
        hold = Hold(asyncio.Event(), asyncio.Event())
        server.script.add(VERSIONING, hold)
        with pytest.raises(StoreUnavailable, match="too long"):
            await slow.get("a")
        # There is one thread: it must have left the request that is still held.
        retrying = RetryingStore(slow, sleep=no_wait)
        assert await retrying.get("a") == b"data"
        assert not hold.go.is_set()
        hold.go.set()
        await slow.close()


@pytest.mark.parametrize("operation", ["get", "get_range", "get_range_to", "put", "put_file"])
async def test_a_cancelled_call_is_ended_and_its_thread_free(
    server: OssServer, tmp_path: Path, operation: str
) -> None:
    path = tmp_path / "file"
    await asyncio.to_thread(path.write_bytes, b"data")
    async with oss_endpoint(server) as endpoint:
        store = store_at(endpoint, timeouts=LONG, connections=1)
        await store.put("a", b"data")
        hold = Hold(asyncio.Event(), asyncio.Event())
        server.script.add("PUT" if "put" in operation else "GET", hold)
        with path.open("r+b") as file:
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "get": lambda: store.get("a"),
                "get_range": lambda: store.get_range("a", 0, 1),
                "get_range_to": lambda: store.get_range_to("a", 0, 1, file.fileno()),
                "put": lambda: store.put("a", b"data"),
                "put_file": lambda: store.put_file("a", path),
            }
            task = asyncio.ensure_future(calls[operation]())
            await hold.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await store.get("a") == b"data"
        assert not hold.go.is_set()
        hold.go.set()
        await store.close()


async def test_a_file_that_cannot_be_read_is_the_callers_error(
    server: OssServer, store: OssStore, tmp_path: Path
) -> None:
    with pytest.raises(IsADirectoryError):
        await store.put_file("a", tmp_path)
    with pytest.raises(ObjectNotFound):
        await store.get("a")
    assert server.bucket.objects == {}


async def test_an_invalid_range_is_short_and_not_the_whole(
    server: OssServer, store: OssStore
) -> None:
    await store.put("a", b"0123456789")
    for start, length in ((5, 10), (10, 1)):
        with pytest.raises(ShortObject):
            await store.get_range("a", start, length)
    assert [status for kind, status in server.requests if kind == "GET"] == [206, 416]


def test_the_crc_is_that_of_oss() -> None:
    # The check value of CRC-64/XZ in the catalogue of parametrised CRC algorithms.
    assert crc_of(b"123456789") == 0x995DC9BBDF1939FA


def test_oss2_is_not_imported_before_it_is_used() -> None:
    program = (
        "import sys\n"
        "from buildsvc.store.open import open_store\n"
        "open_store('/nowhere')\n"
        "assert 'buildsvc.store.oss' not in sys.modules\n"
        "open_store('oss://bucket?region=cn-hangzhou')\n"
        "assert 'buildsvc.store.oss' in sys.modules and 'oss2' not in sys.modules\n"
    )
    key = {"OSS_ACCESS_KEY_ID": "id", "OSS_ACCESS_KEY_SECRET": "secret"}
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **key})
