"""Questions to the S3 client, and its answers, checked and in terms of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import obstore
from obstore.exceptions import BaseError

from buildsvc.errors import StoreUnavailable
from buildsvc.store.ranges import short_object
from buildsvc.store.s3errors import s3_error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence

    from obstore import GetResult, ListStream, ObjectMeta
    from obstore.store import S3Store as Client

T = TypeVar("T")

_PAGE = 1000
# Bytes that are handed on at a time: few enough for bounded memory, many for few wake-ups.
_PIECE = 1 << 20
# What the client raises; OSError is its FileNotFoundError, for an object.
_RAISED = (BaseError, OSError, NotImplementedError, ValueError)


async def answer(method: str, name: str, asked: Awaitable[T]) -> T:
    """The client's answer to ``method``, one of HTTP's or LIST, asked of ``name``.

    Raises:
        StoreError: what the client raised, in terms of the contract.
        OSError: the caller's file cannot be read.
    """
    try:
        return await asked
    except _RAISED as error:
        if isinstance(error, OSError) and error.errno is not None:
            # Not of the client's making: the file that is sent cannot be read.
            raise
        raise s3_error(error, method, name) from error


async def next_of(method: str, name: str, stream: AsyncIterator[T]) -> T | None:
    """The next item of one of the client's streams, or None at its end; else as ``answer``."""
    # They do not go with the default of ``anext``.
    try:
        return await answer(method, name, anext(stream))
    except StopAsyncIteration:
        return None


async def part(client: Client, key: str, name: str, start: int, length: int) -> GetResult:
    """The head of the answer with that range of ``name``, which lies at ``key``.

    Raises:
        ShortObject: the object ends before.
    """
    asked = obstore.get_async(client, key, options={"range": (start, start + length)})
    result = await answer("GET", name, asked)
    if result.range[1] < start + length:
        raise short_object(name, start, length, result.meta["size"])
    return result


async def pieces(result: GetResult, name: str, length: int) -> AsyncGenerator[memoryview, None]:
    """The answer's body, which must have ``length`` bytes, piece by piece.

    Raises:
        StoreUnavailable: it has fewer, or more, of which no more than a piece is read.
    """
    # What an answer announces and its body are two things.
    done = 0
    stream = result.stream(min_chunk_size=_PIECE)
    while (piece := await next_of("GET", name, stream)) is not None:
        done += len(piece)
        if done > length:
            break
        yield memoryview(piece)
    if done != length:
        raise StoreUnavailable(
            f"another number of bytes of {name} came than was announced",
            expected=f"{length} bytes",
            found=f"{done} bytes" if done < length else "more",
        )


async def body(result: GetResult, name: str, length: int) -> bytes:
    """The answer's body, which must have ``length`` bytes; raises as ``pieces``."""
    return b"".join([piece async for piece in pieces(result, name, length)])


def listing(client: Client, base: str, prefix: str) -> ListStream[Sequence[ObjectMeta]]:
    """All objects of the directory that ``prefix`` leads into, from about ``prefix`` on."""
    directory, slash, rest = f"{base}{prefix}".rpartition("/")
    # What is after it begins with it or is greater; the client takes no offset that ends in a /.
    offset = f"{directory}{slash}{rest[:-1]}" if len(rest) > 1 else None
    return obstore.list(client, directory or None, offset=offset, chunk_size=_PAGE)
