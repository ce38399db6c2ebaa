"""One HTTP request and its answer, over a pool of kept-alive connections; blocking, for threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TYPE_CHECKING, cast

from buildsvc.errors import StoreRefused, StoreUnavailable
from buildsvc.store.httpconnection import Connection, Dialer, Origin
from buildsvc.store.httpstatus import status_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from http.client import HTTPResponse

    from buildsvc.errors import StoreError
    from buildsvc.store.httpconnection import Call
    from buildsvc.store.timeouts import HttpTimeouts
    from buildsvc.store.uploads import Upload

KEPT = 15.0
"""Seconds that an unused connection is kept: firewalls forget longer ones without a word."""

_DRAIN = 64 << 10
"""Bytes of an answer that are read for nothing, so that the connection can be used again."""

# What http.client lets through of a server that talks nonsense.
_BROKEN = (OSError, HTTPException, ValueError)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. ``query`` is encoded already.

    An answer whose status is not in ``ok`` is raised as an error, or, with ``reads_errors``, the
    caller's to read.
    """

    method: str
    name: str
    ok: frozenset[int]
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Upload | None = None
    reads_errors: bool = False

    @property
    def what(self) -> str:
        """For messages."""
        return f"{self.method} {self.name}"


class Answer:
    """The answer's head, and its body to be read."""

    def __init__(self, response: HTTPResponse, buffer: memoryview, origin: str, what: str) -> None:
        self.buffer = buffer
        self._response = response
        self._origin = origin
        self._what = what

    @property
    def delimited(self) -> bool:
        """Whether the head says how the body ends. If not, one that is cut off looks whole."""
        return self._response.length is not None or bool(self._response.chunked)

    @property
    def status(self) -> int:
        """The status of HTTP."""
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers; their names are found in any case."""
        # It has all that a Mapping has but the name.
        return cast("Mapping[str, str]", self._response.headers)

    def header(self, name: str) -> str | None:
        """The header's value; None if there is none."""
        return self._response.getheader(name)

    def readinto(self, view: memoryview) -> int:
        """Fill ``view`` with what comes next; less than its length only at the end.

        Raises:
            StoreUnavailable: the server or the connection failed before the body's end.
        """
        try:
            count = self._response.readinto(view)
        except _BROKEN as error:
            raise failure(self._what, self._origin, error) from error
        if count < len(view) and self._response.length:
            raise StoreUnavailable(
                f"{self._what} was cut off by {self._origin}",
                found=f"{self._response.length} bytes less",
            )
        return count

    def finish(self) -> bool:
        """Read what is left if it is little; whether the connection can be used again."""
        if self._response.will_close or (self._response.length or 0) > _DRAIN:
            return False
        try:
            self.readinto(self.buffer[:_DRAIN])
        except StoreUnavailable:
            return False
        return self._response.isclosed()


class Exchanges:
    """Requests to the server at ``origin``, each over a connection that is or was its own."""

    def __init__(self, origin: Origin, timeouts: HttpTimeouts) -> None:
        self._origin = origin
        self._dialer = Dialer(origin, timeouts)
        self._lock = threading.Lock()
        self._idle: deque[tuple[float, Connection]] = deque()
        self._closed = False

    @contextmanager
    def ask(self, request: Request, call: Call) -> Iterator[Answer]:
        """Send the request, and yield the answer if its status is one of ``request.ok``.

        Raises:
            StoreError: it is not, or there is no answer.
            OSError: the request's body cannot be read.
        """
        what = request.what
        try:
            connection, response = self._begin(request, call)
        except _Broken as broken:
            raise failure(what, self._origin.address, broken.error) from broken.error
        kept = False
        try:
            answer = Answer(response, connection.buffer, self._origin.address, what)
            error: StoreError | None = None
            if response.status in request.ok or request.reads_errors:
                yield answer
            else:
                error = status_error(
                    request.method,
                    request.name,
                    response.status,
                    response.reason,
                    response.getheader("Retry-After"),
                )
            kept = answer.finish()
            if error is not None:
                raise error
        finally:
            # In this order: a connection that was ended is not used again.
            if call.release() and kept:
                self._keep(connection)
            else:
                response.close()
                connection.close()

    def close(self) -> None:
        """Close the idle connections now, and the others when their exchanges end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, deque()
        for _, connection in idle:
            connection.close()

    def _begin(self, request: Request, call: Call) -> tuple[Connection, HTTPResponse]:
        connection = self._kept()
        if connection is not None:
            try:
                return connection, self._sent(connection, request, call)
            except _Broken as broken:
                # It may have died while nobody used it, and the server have seen nothing. All
                # that is asked is idempotent, except for what the contract says of ``create``.
                if isinstance(broken.error, TimeoutError):
                    raise
        try:
            connection = self._dialer.connect(call)
        except _BROKEN as error:
            raise _Broken(error) from error
        return connection, self._sent(connection, request, call)

    def _sent(self, connection: Connection, request: Request, call: Call) -> HTTPResponse:
        try:
            return self._answered(connection, request, call)
        except BaseException:
            call.release()
            connection.close()
            raise

    def _answered(self, connection: Connection, request: Request, call: Call) -> HTTPResponse:
        _expect_sendable(request.headers)
        http = connection.http
        try:
            call.watch(connection.handle)
            http.putrequest(
                request.method,
                f"{self._origin.path}/{request.name}{request.query}",
                skip_accept_encoding=True,
            )
            http.putheader("Accept-Encoding", "identity")
            http.putheader("User-Agent", "buildsvc")
            for name, value in request.headers.items():
                http.putheader(name, value)
            if request.body is not None:
                if "Content-Type" not in request.headers:
                    http.putheader("Content-Type", "application/octet-stream")
                http.putheader("Content-Length", str(request.body.size))
            http.endheaders()
        except _BROKEN as error:
            raise _Broken(error) from error
        lost = _send(connection, request.body) if request.body is not None else None
        try:
            response = http.getresponse()
        except _BROKEN as error:
            raise _Broken(lost or error) from error
        if lost is not None:
            if response.status in request.ok:
                # It does not have the bytes of which it says this.
                response.close()
                raise _Broken(lost)
            response.will_close = True
        return response

    def _kept(self) -> Connection | None:
        """The idle connection that was used last, if there is any."""
        since = time.monotonic() - KEPT
        with self._lock:
            stale = []
            while self._idle and self._idle[0][0] < since:
                stale.append(self._idle.popleft()[1])
            found = self._idle.pop()[1] if self._idle else None
        for connection in stale:
            connection.close()
        return found

    def _keep(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()


class _Broken(Exception):
    """The connection or what came over it is broken; apart from an error of the caller's file."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def _send(connection: Connection, body: Upload) -> ConnectionError | None:
    """Send the body; returns why the server hung up, if it did: it may have said why before."""
    for piece in body.pieces():
        try:
            connection.send(piece)
        except ConnectionError as error:
            return error
        except OSError as error:
            raise _Broken(error) from error
    return None


def _expect_sendable(headers: Mapping[str, str]) -> None:
    """Raise StoreRefused, without the value: it may be a secret, and http.client shows it."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise StoreRefused(
                f"the header {name} cannot be sent",
                expected="visible ASCII characters",
                found="a line break or another character",
                advice="look for it in the credentials of the store",
            )


def failure(what: str, origin: str, error: Exception) -> StoreUnavailable:
    """The contract's error for a connection that failed."""
    if isinstance(error, TimeoutError):
        return StoreUnavailable(f"{what} took too long at {origin}")
    return StoreUnavailable(
        f"{what} failed at {origin}", found=f"{type(error).__name__} {error}".strip()
    )
