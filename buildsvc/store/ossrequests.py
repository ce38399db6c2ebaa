"""Requests to one bucket: made, signed and understood by oss2; blocking, for threads.

oss2 sends through what is given to it as its session. Ours is the HTTP exchange that the plain
HTTP store uses as well. So a call can be ended and its waits are bounded, bodies go between socket
and file without a copy in between, and none of the retries, proxies, netrc files and redirects of
the client library that oss2 brings along is in the way.

Importing this takes 0.3 s of processor time.
"""

from __future__ import annotations

import logging
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

import oss2

from buildsvc.errors import StoreRefused
from buildsvc.store.contract import ObjectStat
from buildsvc.store.httpbody import read_document
from buildsvc.store.httpexchange import Answer, Exchanges, Request
from buildsvc.store.osserrors import OssProblem, OssProblemError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from buildsvc.store.crc64 import CheckedUpload
    from buildsvc.store.httpconnection import Call
    from buildsvc.store.ossaddress import OssAddress
    from buildsvc.store.osscredentials import Credentials

T = TypeVar("T")

PAGE = 1000
"""Entries in one answer to a listing: the most that OSS gives."""

_OK = frozenset(range(200, 300))
_MAX_ANSWER = 16 << 20
_MAX_ERROR = 64 << 10
# The exchange sends these itself.
_OURS = frozenset({"accept-encoding", "content-length", "user-agent"})
_STATUS = re.compile(rb"<(?:\w+:)?Status\b[^>]*>([^<]*)<")
# What parsing an answer of something else than OSS ends in.
_NOT_UNDERSTOOD = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, SyntaxError)


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing. The names in it are keys."""

    entries: tuple[ObjectStat, ...]
    next: str
    """Where the next part begins; empty after the last one."""


class OssRequests:
    """What can be asked of the bucket. Answers are to be read before the call ends."""

    def __init__(self, bucket: Any) -> None:  # noqa: ANN401  oss2 has no types
        self._bucket = bucket

    def get(self, key: str, headers: Mapping[str, str]) -> Answer:
        """GetObject."""
        return self._answer(self._bucket.get_object, key, headers=dict(headers))

    def head(self, key: str) -> Answer:
        """HeadObject."""
        return self._answer(self._bucket.head_object, key)

    def put(self, key: str, body: CheckedUpload, headers: Mapping[str, str]) -> Answer:
        """PutObject; raises ``OSError`` for the body."""
        # Said here, because it is signed: oss2 would guess it from the key.
        typed = {"Content-Type": "application/octet-stream", **headers}
        return self._answer(self._bucket.put_object, key, body, headers=typed)

    def delete(self, key: str) -> Answer:
        """DeleteObject."""
        return self._answer(self._bucket.delete_object, key)

    def list(self, prefix: str, begin: str) -> Page:
        """ListObjectsV2 from where the last page said, or from the first key."""
        found = _understood(
            self._bucket.list_objects_v2, prefix=prefix, continuation_token=begin, max_keys=PAGE
        )
        entries = tuple(
            ObjectStat(entry.key, entry.size, float(entry.last_modified))
            for entry in found.object_list
        )
        if not found.is_truncated:
            return Page(entries, "")
        # A part with nothing in it is not excluded by the documentation, one without an end is.
        if found.next_continuation_token in {"", None, begin}:
            raise _not_oss("a part of a list that does not say what comes next")
        return Page(entries, found.next_continuation_token)

    def versioning(self) -> str:
        """GetBucketVersioning: ``Enabled``, ``Suspended``, or empty if it never was."""
        response = _understood(self._bucket.get_bucket_versioning).resp
        assert isinstance(response, _Response)
        # Not what oss2 makes of it: that finds no status in a document with a namespace, as the
        # documentation shows one, nor in one of something else than OSS.
        if b"VersioningConfiguration" not in response.document:
            raise _not_oss("no VersioningConfiguration")
        status = _STATUS.search(response.document)
        return status[1].decode(errors="replace").strip() if status else ""

    def _answer(self, ask: Callable[..., Any], *args: object, **kwargs: object) -> Answer:
        response = _understood(ask, *args, **kwargs).resp
        assert isinstance(response, _Response)
        return response.answer


def perform(
    exchanges: Exchanges,
    address: OssAddress,
    credentials: Credentials,
    call: Call,
    work: Callable[[OssRequests], T],
) -> T:
    """Return what ``work`` returns.

    Raises:
        OssProblemError: OSS answered with an error.
        StoreUnavailable: a connection failed.
        StoreRefused: the answer is not one of OSS.
    """
    provider = oss2.StaticCredentialsProvider(
        credentials.key_id, credentials.secret, credentials.token
    )
    with ExitStack() as answers:
        bucket = oss2.Bucket(
            oss2.ProviderAuthV4(provider),
            address.endpoint,
            address.bucket,
            session=_Session(exchanges, call, answers),
            region=address.region,
            # In Python, and not compared in all cases: see crc64.
            enable_crc=False,
        )
        try:
            return work(OssRequests(bucket))
        except oss2.exceptions.OssError as error:
            # The connection of an answer that was read is good for the next request.
            problem = OssProblem(error.status, error.code or "", error.message or "", error.headers)
    # Outside the handler: that error has the token in it, and would come along in a traceback.
    raise OssProblemError(problem)


def _understood(ask: Callable[..., Any], *args: object, **kwargs: object) -> Any:  # noqa: ANN401
    try:
        return ask(*args, **kwargs)
    except _NOT_UNDERSTOOD as error:
        raise _not_oss(type(error).__name__) from error


def _not_oss(found: str) -> StoreRefused:
    return StoreRefused(
        "the answer is not that of OSS",
        expected="what its documentation says",
        found=found,
        advice="check the endpoint",
    )


class _Session:
    """In the place of oss2's: each request is an exchange, open until the call ends."""

    def __init__(self, exchanges: Exchanges, call: Call, answers: ExitStack) -> None:
        self._exchanges = exchanges
        self._call = call
        self._answers = answers

    def do_request(self, request: Any, timeout: object) -> _Response:  # noqa: ANN401
        """Send what oss2 has signed."""
        # The exchanges have their own.
        del timeout
        parameters = urlencode(request.params, quote_via=quote, safe="")
        headers = {
            name: value for name, value in request.headers.items() if name.lower() not in _OURS
        }
        sent = Request(
            request.method,
            # Keys consist of what stands for itself in an URL.
            unquote(urlsplit(request.url).path).removeprefix("/"),
            _OK,
            query=f"?{parameters}" if parameters else "",
            headers=headers,
            body=request.data,
            reads_errors=True,
        )
        return _Response(self._answers.enter_context(self._exchanges.ask(sent, self._call)))


class _Response:
    """In the place of oss2's."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.status = answer.status
        self.headers = answer.headers
        self.request_id = answer.headers.get("x-oss-request-id", "")
        self.document = b""

    def read(self, amount: int | None = None) -> bytes:
        """The body: oss2 asks for documents only; of errors for too little to hold a whole one."""
        del amount
        if self.status in _OK:
            # Once more at its end there is nothing.
            self.document = self.document or read_document(self.answer, "a document", _MAX_ANSWER)
            return self.document
        view = self.answer.buffer[:_MAX_ERROR]
        return bytes(view[: self.answer.readinto(view)])


def _silence() -> None:
    """Let nothing that oss2 logs pass: tokens, signatures and what was signed are in it.

    A filter holds whatever levels, handlers and configurations come later.
    """
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "oss2":
            logging.getLogger(name).addFilter(lambda _: False)


_silence()
