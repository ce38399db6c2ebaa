"""What a server may answer, and what of it is believed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import StoreError, StoreRefused, StoreUnavailable
from tests.unit.store.talking import request, talking

if TYPE_CHECKING:
    import asyncio


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
