"""Which gRPC status an expected error becomes."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import grpc.aio

from buildsvc.errors import BuildsvcError, CorruptObject
from sidecar.agent import index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""A call as its handler sees it."""

_CODES: dict[type[BuildsvcError], grpc.StatusCode] = {
    index.NotFound: grpc.StatusCode.NOT_FOUND,
    index.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    index.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    index.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    index.Unavailable: grpc.StatusCode.UNAVAILABLE,
    CorruptObject: grpc.StatusCode.DATA_LOSS,
}


@asynccontextmanager
async def statuses(context: Context) -> AsyncIterator[None]:
    """Ends the call with a status for what can go wrong in the ordinary course of things."""
    try:
        yield
    except (BuildsvcError, OSError, ExceptionGroup) as error:
        await context.abort(*_status(error))


def _status(error: Exception) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, ExceptionGroup):
        return _status(error.exceptions[0])
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if full else grpc.StatusCode.UNKNOWN
        return code, str(error)
    if isinstance(error, BuildsvcError):
        return _CODES.get(type(error), grpc.StatusCode.UNKNOWN), str(error)
    raise error
