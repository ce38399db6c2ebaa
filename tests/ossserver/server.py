"""OSS over HTTP, with aiohttp."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import web

from tests.ossserver import signature
from tests.ossserver.bucket import Bucket, cut_range
from tests.ossserver.documents import Refusal
from tests.ossserver.faults import Cut, Fault, Flip, Hold, LoseAnswer, Reset, Say, Script

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Key:
    """An access key; one of STS has a token and ends."""

    key_id: str
    secret: str
    token: str = ""
    ends: float = float("inf")


@dataclass
class OssServer:
    """One service with one bucket.

    The bucket answers under its own name below that of the service
    (D user-guide/access-oss-by-using-bucket-domain-names). ``requests`` records what was
    answered: kind and status.
    """

    bucket: Bucket
    keys: dict[str, Key]
    clock: Callable[[], float] = time.time
    script: Script = field(default_factory=Script)
    requests: list[tuple[str, int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of all requests, with lower-case names."""

    def application(self) -> web.Application:
        """The web application."""
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{key:.*}", self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw, _, raw_query = request.raw_path.partition("?")
        query = signature.parse_query(raw_query)
        key = unquote(raw[1:])
        kind = request.method
        if not key:
            kind += " ?versioning" if ("versioning", "") in query else " ?list"
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.headers.append(headers)
        fault = self.script.next(kind)
        if isinstance(fault, Reset):
            return _broken(request)
        if isinstance(fault, Hold):
            fault.reached.set()
            await fault.go.wait()
        try:
            _say(fault)
            self._check_host(request.host)
            self._authenticate(request.method, key, query, headers)
            answer = await self._answer(request, key, dict(query), headers, fault)
        except Refusal as refusal:
            request_id = f"{len(self.requests):024X}"
            body = refusal.document(request_id, request.host) if request.method != "HEAD" else b""
            answer = web.Response(
                status=refusal.status,
                body=body,
                content_type="application/xml",
                headers={"x-oss-request-id": request_id, "x-oss-ec": refusal.ec, **refusal.headers},
            )
        self.requests.append((kind, answer.status))
        if isinstance(fault, LoseAnswer):
            return _broken(request)
        if isinstance(fault, Cut):
            return await _cut(request, answer, fault.keep)
        return answer

    def _check_host(self, host: str) -> None:
        # D support/http-status-code-403, SecondLevelDomainForbidden: no path-style access.
        if not host.startswith(f"{self.bucket.name}."):
            if host.count(".") > 1:
                raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.")
            raise Refusal(
                403, "SecondLevelDomainForbidden", "Please use virtual hosted style to access."
            )

    def _authenticate(
        self, method: str, key: str, query: list[tuple[str, str]], headers: dict[str, str]
    ) -> None:
        if "authorization" not in headers:
            raise Refusal(403, "AccessDenied", "You have no right to access this object.")
        scope = signature.parse_authorization(headers["authorization"])
        if headers.get("x-oss-content-sha256") != signature.UNSIGNED:
            raise Refusal(400, "InvalidArgument", "x-oss-content-sha256 is not UNSIGNED-PAYLOAD")
        date = signature.check_date(headers, scope, self.clock())
        if scope.region != self.bucket.region:
            raise Refusal(400, "InvalidArgument", "Invalid signing region in Authorization header.")
        # D support/http-status-code-403
        known = self.keys.get(scope.key_id)
        if known is None:
            raise Refusal(
                403,
                "InvalidAccessKeyId",
                "The OSS Access Key Id you provided does not exist in our records.",
                "0002-00000902",
            )
        token = headers.get("x-oss-security-token", "")
        if not hmac.compare_digest(token, known.token):
            raise Refusal(403, "InvalidSecurityToken", "The security token is not valid.")
        if self.clock() >= known.ends:
            raise Refusal(403, "SecurityTokenExpired", "The security token has expired.")
        if not set(scope.additional) <= set(headers):
            raise Refusal(400, "InvalidArgument", "a header of AdditionalHeaders is missing")
        canonical = signature.canonical_request(
            method, f"/{self.bucket.name}/{key}", query, headers, scope.additional
        )
        text = signature.string_to_sign(canonical, date, scope.region)
        right = signature.signature(
            signature.signing_key(known.secret, scope.date, scope.region), text
        )
        if not hmac.compare_digest(right, scope.signature):
            raise Refusal(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
                "0002-00000231",
                details={"CanonicalRequest": canonical, "StringToSign": text},
            )

    async def _answer(
        self,
        request: web.Request,
        key: str,
        query: dict[str, str],
        headers: dict[str, str],
        fault: Fault | None,
    ) -> web.Response:
        match request.method, key:
            case "GET", "" if "versioning" in query:
                return _document(self.bucket.describe_versioning())
            case "GET", "" if query.get("list-type") == "2":
                return _document(self.bucket.page(query))
            case "PUT", key if key:
                # D support/http-status-code-411
                if "content-length" not in headers:
                    raise Refusal(411, "MissingContentLength", "There is no Content-Length.")
                data = await request.read()
                damaged = _flipped(data) if isinstance(fault, Flip) else data
                return web.Response(headers=self.bucket.put(key, damaged, headers, self.clock()))
            case "GET" | "HEAD", key if key:
                return self._read(key, headers, fault)
            case "DELETE", key if key:
                # D developer-reference/deleteobject: 204, whether it was there or not.
                self.bucket.objects.pop(key, None)
                return web.Response(status=204)
        raise Refusal(405, "MethodNotAllowed", "The specified method is not allowed.")

    def _read(self, key: str, headers: dict[str, str], fault: Fault | None) -> web.Response:
        stored = self.bucket.get(key)
        answer = {
            "ETag": stored.etag,
            "Last-Modified": formatdate(stored.modified, usegmt=True),
            "x-oss-object-type": "Normal",
            # Of the whole object, whatever the range: the page of the CRC.
            "x-oss-hash-crc64ecma": str(stored.crc),
        }
        standard = headers.get("x-oss-range-behavior") == "standard"
        part = cut_range(headers.get("range", ""), len(stored.data), standard=standard)
        data = stored.data
        if part is not None:
            start, end = part
            answer["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
            data = data[start:end]
        # aiohttp leaves it out where it is 0 and the method HEAD.
        answer["Content-Length"] = str(len(data))
        return web.Response(
            status=200 if part is None else 206,
            body=_flipped(data) if isinstance(fault, Flip) else data,
            headers=answer,
        )


def _document(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/xml")


def _say(fault: Fault | None) -> None:
    if isinstance(fault, Say):
        raise Refusal(fault.status, fault.code, "scripted", headers=fault.headers)


def _flipped(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:] if data else data


def _broken(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def _cut(request: web.Request, answer: web.StreamResponse, keep: int) -> web.StreamResponse:
    assert isinstance(answer, web.Response)
    assert isinstance(answer.body, bytes)
    assert request.transport is not None
    stream = web.StreamResponse(status=answer.status, headers=answer.headers)
    stream.content_length = len(answer.body)
    await stream.prepare(request)
    await stream.write(answer.body[:keep])
    request.transport.close()
    return stream
