"""The store behind a plain HTTP object server, such as ``perf/objectserver.py``.

An object is a resource at the base address plus its name (RFC 9110): GET with ``Range``, HEAD,
PUT, ``PUT`` with ``If-None-Match: *`` to create, DELETE. ``GET <base>/?prefix=P&after=N`` lists,
as JSON ``{"objects": [{"name", "size", "modified"}, …], "more": bool}``, ascending, names after N.
"""

from __future__ import annotations

import functools
import os
import re
from contextlib import aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from buildsvc.errors import StoreRefused, StoreUnavailable
from buildsvc.store.contract import MAX_GET, ObjectStat
from buildsvc.store.copying import write_at
from buildsvc.store.httplist import not_an_object_server, parse_page
from buildsvc.store.httpstatus import status_error
from buildsvc.store.names import check_name, check_prefix
from buildsvc.store.ranges import check_range, short_object
from buildsvc.store.threads import Threads
from buildsvc.store.timeouts import DEFAULT_TIMEOUTS, HttpTimeouts
from buildsvc.store.uploads import BytesUpload, FileUpload, Upload

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from pathlib import Path

_BUFFER = 1 << 20
_MAX_LIST_ANSWER = 16 << 20
_SUCCESS = {
    "GET": frozenset({200}),
    "HEAD": frozenset({200}),
    "PUT": frozenset({200, 201, 204}),
}
_PART = frozenset({206})
_DELETED = frozenset({200, 202, 204, 404})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")


class HttpStore:
    """``Store`` at the address ``base``; connects with the first operation.

    ``connections`` bounds the requests at one time. Redirects are not followed, and proxies of
    the environment not used: bytes come from the server that was named.
    """

    def __init__(
        self, base: str, timeouts: HttpTimeouts = DEFAULT_TIMEOUTS, connections: int = 16
    ) -> None:
        self._base = base.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(
            total=timeouts.total, sock_connect=timeouts.connect, sock_read=timeouts.idle
        )
        self._connections = connections
        self._threads = Threads(4, "http-store")
        self._session: aiohttp.ClientSession | None = None

    async def get(self, name: str) -> bytes:
        """See ``Store.get``."""
        async with self._exchange("GET", check_name(name)) as response:
            return await _read_all(response, name, MAX_GET)

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """See ``Store.get_range``."""
        async with aclosing(self._range(name, start, length)) as parts:
            return b"".join([part async for part in parts])

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """See ``Store.get_range_to``."""
        done = 0
        async with aclosing(self._range(name, start, length)) as parts:
            async for part in parts:
                await self._threads.borrow(fd, functools.partial(_write, part, at + done))
                done += len(part)
        return done

    async def put(self, name: str, data: bytes) -> None:
        """See ``Store.put``."""
        async with self._exchange("PUT", check_name(name), data=BytesUpload(data)):
            pass

    async def put_file(self, name: str, path: Path) -> None:
        """See ``Store.put_file``."""
        check_name(name)
        fd = await self._threads.run(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            upload = await self._threads.run(FileUpload, fd, self._threads)
            async with self._exchange("PUT", name, data=upload):
                pass
        finally:
            os.close(fd)

    async def create(self, name: str, data: bytes) -> None:
        """See ``Store.create``."""
        headers = {"If-None-Match": "*"}
        async with self._exchange("PUT", check_name(name), headers=headers, data=BytesUpload(data)):
            pass

    async def stat(self, name: str) -> ObjectStat:
        """See ``Store.stat``."""
        async with self._exchange("HEAD", check_name(name)) as response:
            size = response.headers.get("Content-Length", "")
            if not size.isdecimal():
                raise not_an_object_server(name, "a HEAD answer with Content-Length", repr(size))
            return ObjectStat(name, int(size), _modified(response.headers.get("Last-Modified")))

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
        async with self._exchange("DELETE", check_name(name), ok=_DELETED):
            pass

    async def close(self) -> None:
        """See ``Store.close``."""
        if self._session is not None:
            await self._session.close()
        self._threads.close()

    async def _page(self, prefix: str, after: str) -> tuple[tuple[ObjectStat, ...], bool]:
        query = {"prefix": prefix, "after": after}
        async with self._exchange("GET", "", query=query) as response:
            return parse_page(await _read_all(response, "", _MAX_LIST_ANSWER), prefix, after)

    async def _range(self, name: str, start: int, length: int) -> AsyncGenerator[bytes, None]:
        check_range(start, length)
        if length == 0:
            # HTTP has no empty range.
            size = (await self.stat(name)).size
            if size < start:
                raise short_object(name, start, length, size)
            return
        headers = {"Range": f"bytes={start}-{start + length - 1}"}
        async with self._exchange("GET", check_name(name), ok=_PART, headers=headers) as response:
            _check_part(response.headers.get("Content-Range", ""), name, start, length)
            missing = length
            async for part in response.content.iter_chunked(_BUFFER):
                missing -= len(part)
                if missing < 0:
                    raise not_an_object_server(name, f"{length} bytes", "more")
                yield part
            if missing:
                raise StoreUnavailable(f"{name} arrived cut off", found=f"{missing} bytes less")

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        name: str,
        *,
        ok: frozenset[int] | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        query: Mapping[str, str] = MappingProxyType({}),
        data: Upload | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = URL(f"{self._base}/{name}", encoded=True).with_query(query)
        try:
            async with self._connected().request(
                method, url, headers=headers, data=data, allow_redirects=False
            ) as response:
                if response.status not in (ok or _SUCCESS[method]):
                    raise status_error(method, name, response.status, response.reason or "")
                yield response
        except aiohttp.ClientSSLError as error:
            raise StoreRefused(
                f"no trusted connection to {self._base}",
                found=str(error),
                advice="install the authority that signed the server's certificate",
            ) from error
        except TimeoutError as error:
            raise StoreUnavailable(f"{method} {name} took too long at {self._base}") from error
        except aiohttp.ClientError as error:
            raise StoreUnavailable(
                f"{method} {name} failed at {self._base}", found=f"{type(error).__name__} {error}"
            ) from error

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                connector=aiohttp.TCPConnector(limit=self._connections),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,
                read_bufsize=_BUFFER,
            )
        return self._session


def _write(data: bytes, at: int, fd: int, _stop: threading.Event) -> None:
    write_at(fd, data, at)


async def _read_all(response: aiohttp.ClientResponse, name: str, limit: int) -> bytes:
    parts = []
    size = 0
    async for part in response.content.iter_chunked(_BUFFER):
        size += len(part)
        if size > limit:
            raise StoreRefused(
                f"{name or 'the list of objects'} is too large to be read at once",
                expected=f"at most {limit} bytes",
                advice="remove the object if buildsvc did not write it",
            )
        parts.append(part)
    return b"".join(parts)


def _check_part(content_range: str, name: str, start: int, length: int) -> None:
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != start or int(match[2]) >= start + length:
        raise not_an_object_server(name, f"{length} bytes from {start}", repr(content_range))
    if int(match[2]) < start + length - 1:
        raise short_object(name, start, length, int(match[2]) + 1)


def _modified(date: str | None) -> float | None:
    if date is None:
        return None
    try:
        return parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
