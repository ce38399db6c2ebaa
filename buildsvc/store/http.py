"""The store behind a plain HTTP object server, such as ``perf/objectserver.py``.

An object is a resource at the base address plus its name (RFC 9110): GET with ``Range``, HEAD,
PUT, ``PUT`` with ``If-None-Match: *`` to create, DELETE. ``GET <base>/?prefix=P&after=N`` lists,
as JSON ``{"objects": [{"name", "size", "modified"}, …], "more": bool}``, ascending, names after N.
"""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

from buildsvc.errors import StoreUnavailable
from buildsvc.store.contract import MAX_GET, ObjectStat
from buildsvc.store.httpbody import copy_part, read_document, read_object, read_part, stat_of
from buildsvc.store.httpconnection import Call, Origin
from buildsvc.store.httpexchange import Answer, Exchanges, Request
from buildsvc.store.httplist import parse_page
from buildsvc.store.names import check_name, check_prefix
from buildsvc.store.ranges import check_range, short_object
from buildsvc.store.threads import Threads
from buildsvc.store.timeouts import DEFAULT_TIMEOUTS, HttpTimeouts
from buildsvc.store.uploads import BytesUpload, FileUpload, Upload

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

T = TypeVar("T")

_MAX_LIST_ANSWER = 16 << 20
_OK = frozenset({200})
_PART = frozenset({206})
_WRITTEN = frozenset({200, 201, 204})
_DELETED = frozenset({200, 202, 204, 404})
_NONE: Mapping[str, str] = MappingProxyType({})


class HttpStore:
    """``Store`` at the address ``base``; connects with the first operation.

    ``connections`` bounds the requests at one time; each has a thread and a connection. Redirects
    are not followed, and proxies of the environment not used: bytes come from the server that
    was named.

    The bytes never pass through the event loop: a thread copies them between socket and file, and
    the interpreter's lock is free during the system calls. A call that is cancelled or takes too
    long shuts its connection down, so its thread ends too.

    Raises:
        ConfigError: ``base`` is no address.
    """

    def __init__(
        self, base: str, timeouts: HttpTimeouts = DEFAULT_TIMEOUTS, connections: int = 16
    ) -> None:
        self._origin = Origin.of(base.rstrip("/"))
        self._total = timeouts.total
        self._threads = Threads(connections, "http-store")
        self._exchanges = Exchanges(self._origin, timeouts)

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """See ``Store.get``."""
        request = Request("GET", check_name(name), _OK)
        return await self._ask(request, lambda answer: read_object(answer, name, limit))

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        check_range(start, length)
        if length == 0:
            await self._check_empty_range(name, start)
            return b""

        def read(answer: Answer) -> bytes:
            return read_part(answer, name, start, length)

        return await self._ask(_range_request(name, start, length), read)

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        check_range(start, length)
        request = _range_request(name, start, length)
        if length == 0:
            await self._check_empty_range(name, start)
            return 0
        call = Call()

        def copy(target: int, stop: threading.Event) -> int:
            with self._exchanges.ask(request, call) as answer:
                return copy_part(answer, name, start, length, target=target, at=at, stop=stop)

        return await self._finished(request.what, call, self._threads.borrow(fd, copy))

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        await self._ask(_put_request(name, BytesUpload(data)), _nothing)

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``."""
        check_name(name)
        call = Call()

        def send() -> None:
            with path.open("rb", buffering=0) as file:
                request = _put_request(name, FileUpload(file.fileno()))
                with self._exchanges.ask(request, call):
                    pass

        await self._finished(f"PUT {name}", call, self._threads.run(send))

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``."""
        headers = {"If-None-Match": "*"}
        await self._ask(_put_request(name, BytesUpload(data), headers), _nothing)

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""

        def read(answer: Answer) -> ObjectStat:
            return stat_of(answer, name)

        return await self._ask(Request("HEAD", check_name(name), _OK), read)

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See ``Store.list``."""
        check_prefix(prefix)
        after, more = "", True
        while more:
            page, more = await self._page(prefix, after)
            for stat in page:
                yield stat
            if more:
                after = page[-1].name

    async def delete(self, name: str) -> None:
        """See ``Store.delete``."""
        await self._ask(Request("DELETE", check_name(name), _DELETED), _nothing)

    async def close(self) -> None:
        """See ``Store.close``."""
        self._exchanges.close()
        self._threads.close()

    async def _page(self, prefix: str, after: str) -> tuple[tuple[ObjectStat, ...], bool]:
        query = "?" + urlencode({"prefix": prefix, "after": after})

        def read(answer: Answer) -> tuple[tuple[ObjectStat, ...], bool]:
            return parse_page(read_document(answer, "the list", _MAX_LIST_ANSWER), prefix, after)

        return await self._ask(Request("GET", "", _OK, query=query), read)

    async def _check_empty_range(self, name: str, start: int) -> None:
        # HTTP has no empty range.
        size = (await self.stat(name)).size
        if size < start:
            raise short_object(name, start, 0, size)

    async def _ask(self, request: Request, read: Callable[[Answer], T]) -> T:
        call = Call()

        def ask() -> T:
            with self._exchanges.ask(request, call) as answer:
                return read(answer)

        return await self._finished(request.what, call, self._threads.run(ask))

    async def _finished(self, what: str, call: Call, running: Awaitable[T]) -> T:
        limit = asyncio.timeout(self._total)
        try:
            async with limit:
                return await running
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise StoreUnavailable(f"{what} took too long at {self._origin.address}") from error
        finally:
            call.end()


def _range_request(name: str, start: int, length: int) -> Request:
    headers = {"Range": f"bytes={start}-{start + length - 1}"}
    return Request("GET", check_name(name), _PART, headers=headers)


def _put_request(name: str, body: Upload, headers: Mapping[str, str] = _NONE) -> Request:
    return Request("PUT", check_name(name), _WRITTEN, headers=headers, body=body)


def _nothing(_: Answer) -> None:
    return None
