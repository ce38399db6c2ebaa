"""V4 signatures in the Authorization header.

D developer-reference/recommend-to-use-signature-version-4, unless another page is named.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from tests.ossserver.documents import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALGORITHM = "OSS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
TERMINATOR = "aliyun_v4_request"
MAX_SKEW = 900
"""Seconds. D support/http-status-code-403, RequestTimeTooSkewed."""

_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z")


@dataclass(frozen=True)
class Scope:
    """Who signed, and for what."""

    key_id: str
    date: str
    region: str
    additional: tuple[str, ...]
    signature: str


def parse_authorization(header: str) -> Scope:
    """Read the header; raises ``Refusal``."""
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise _invalid("Invalid signature version in Authorization header.", "0002-00000201")
    pairs = [pair.strip().partition("=") for pair in rest.split(",")]
    # D support/0002-00000202: two or three pairs; 0002-00000203: each with an equals sign.
    if len(pairs) not in {2, 3}:
        raise _invalid("Invalid format of Authorization header.", "0002-00000202")
    if not all(separator for _, separator, _ in pairs):
        raise _invalid("Invalid format of Authorization header.", "0002-00000203")
    fields = {name: value for name, _, value in pairs}
    if not {"Credential", "Signature"} <= set(fields) <= {
        "Credential", "Signature", "AdditionalHeaders",
    }:  # fmt: skip
        raise _invalid("Invalid fields in Authorization header.", "0002-00000204")
    parts = fields["Credential"].split("/")
    if len(parts) != 5 or parts[3:] != ["oss", TERMINATOR]:
        raise _invalid("Invalid credential in Authorization header.", "0002-00000205")
    additional = (
        tuple(fields["AdditionalHeaders"].split(";")) if "AdditionalHeaders" in fields else ()
    )
    if list(additional) != sorted(name.lower() for name in additional):
        raise _invalid("AdditionalHeaders are not lower-case and sorted.", "")
    return Scope(parts[0], parts[1], parts[2], additional, fields["Signature"])


def check_date(headers: Mapping[str, str], scope: Scope, now: float) -> str:
    """The time of signing, in the form that is signed; raises ``Refusal``."""
    date = headers.get("x-oss-date", "")
    if not _DATE.fullmatch(date) or date[:8] != scope.date:
        raise _invalid("Invalid signing date in Authorization header.", "0002-00000206")
    signed = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    if abs(signed - now) > MAX_SKEW:
        raise Refusal(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            "0002-00000504",
            details={"ServerTime": datetime.fromtimestamp(now, UTC).isoformat()},
        )
    return date


def canonical_request(
    method: str,
    resource: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    additional: Sequence[str] = (),
) -> str:
    """What is hashed and signed. Header names are lower-case; ``resource`` is not encoded."""
    encoded = sorted((_encoded(name), _encoded(value)) for name, value in query)
    signed = sorted(
        (name, value.strip())
        for name, value in headers.items()
        if name.startswith("x-oss-")
        or name in {"content-type", "content-md5"}
        or name in additional
    )
    return "\n".join(
        (
            method,
            quote(resource, safe="/-_.~"),
            "&".join(f"{name}={value}" if value else name for name, value in encoded),
            "".join(f"{name}:{value}\n" for name, value in signed),
            ";".join(additional),
            headers["x-oss-content-sha256"],
        )
    )


def string_to_sign(canonical: str, date: str, region: str) -> str:
    """What the signing key signs."""
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return "\n".join((ALGORITHM, date, f"{date[:8]}/{region}/oss/{TERMINATOR}", digest))


def signing_key(secret: str, date: str, region: str) -> bytes:
    """The key for one day, region and service."""
    key = f"aliyun_v4{secret}".encode()
    for part in (date, region, "oss", TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def signature(key: bytes, text: str) -> str:
    """64 lower-case hexadecimal digits."""
    return hmac.digest(key, text.encode(), "sha256").hex()


def parse_query(raw: str) -> list[tuple[str, str]]:
    """The parameters of a raw query, decoded."""
    pairs = [pair.partition("=") for pair in raw.split("&") if pair]
    return [(unquote(name), unquote(value)) for name, _, value in pairs]


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")


def _invalid(message: str, ec: str) -> Refusal:
    return Refusal(400, "InvalidArgument", message, ec)
