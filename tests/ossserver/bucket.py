"""A bucket: what its operations do, apart from HTTP."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from fastcrc import crc64

from tests.ossserver.documents import Refusal, element

if TYPE_CHECKING:
    from collections.abc import Mapping

_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)")


@dataclass(frozen=True)
class Stored:
    """One object."""

    data: bytes
    modified: float

    @property
    def crc(self) -> int:
        """D user-guide/check-data-transmission-integrity-by-using-crc-64: CRC-64/XZ."""
        return crc64.xz(self.data)

    @property
    def etag(self) -> str:
        """D developer-reference/putobject: the MD5 of what PutObject stored."""
        return f'"{hashlib.md5(self.data).hexdigest().upper()}"'


@dataclass
class Bucket:
    """A bucket of a region; ``versioning`` is empty, ``Enabled`` or ``Suspended``."""

    name: str
    region: str
    versioning: str = ""
    objects: dict[str, Stored] = field(default_factory=dict)
    _versions: int = 0

    def put(self, key: str, data: bytes, headers: Mapping[str, str], now: float) -> dict[str, str]:
        """PutObject; returns headers of the answer. D developer-reference/putobject."""
        # D user-guide/object-naming-conventions
        if not 1 <= len(key.encode()) <= 1023 or key[0] in "/\\":
            raise Refusal(400, "InvalidObjectName", "The specified object is not valid.")
        digest = headers.get("content-md5")
        if digest is not None and base64.b64decode(digest) != hashlib.md5(data).digest():
            raise Refusal(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")
        forbid = headers.get("x-oss-forbid-overwrite", "false")
        # D support/0017-00000279
        if forbid not in {"true", "false"}:
            raise Refusal(400, "InvalidArgument", "no such value", "0017-00000279")
        # The page of PutObject: the header is ignored where versioning is enabled or suspended.
        if forbid == "true" and not self.versioning and key in self.objects:
            raise Refusal(
                409,
                "FileAlreadyExists",
                "The object you specified already exists and can not be overwritten.",
                # D user-guide/0026-00000002
                "0026-00000002",
            )
        stored = self.objects[key] = Stored(data, now)
        answer = {"ETag": stored.etag, "x-oss-hash-crc64ecma": str(stored.crc)}
        if self.versioning:
            self._versions += 1
            enabled = self.versioning == "Enabled"
            answer["x-oss-version-id"] = f"CAEQ{self._versions}" if enabled else "null"
        return answer

    def get(self, key: str) -> Stored:
        """The object; raises ``Refusal``. D developer-reference/getobject."""
        if key not in self.objects:
            raise Refusal(404, "NoSuchKey", "The specified key does not exist.", "0026-00000001")
        return self.objects[key]

    def describe_versioning(self) -> bytes:
        """D developer-reference/getbucketversioning: no Status where it was never enabled."""
        status = [("Status", self.versioning)] if self.versioning else []
        return element("VersioningConfiguration", status)

    def page(self, query: Mapping[str, str]) -> bytes:
        """D developer-reference/listobjectsv2."""
        if query.get("delimiter"):
            raise NotImplementedError("directories")
        limit = query.get("max-keys") or "100"
        if not limit.isdigit() or not 1 <= int(limit) <= 1000:
            raise Refusal(400, "InvalidArgument", "max-keys is not valid.")
        prefix = query.get("prefix", "")
        after = query.get("start-after", "")
        if query.get("continuation-token"):
            after = base64.urlsafe_b64decode(query["continuation-token"]).decode()
        # In the order of the names' bytes.
        keys = sorted(
            (k for k in self.objects if k.startswith(prefix) and k > after), key=str.encode
        )
        chosen = keys[: int(limit)]
        encode = quote if query.get("encoding-type") == "url" else str
        return element(
            "ListBucketResult",
            [
                ("Name", self.name),
                ("Prefix", encode(prefix)),
                ("MaxKeys", limit),
                ("IsTruncated", "true" if len(keys) > len(chosen) else "false"),
                ("KeyCount", str(len(chosen))),
                *([("EncodingType", "url")] if encode is quote else []),
                *(
                    [("NextContinuationToken", _token(chosen[-1]))]
                    if len(keys) > len(chosen)
                    else []
                ),
                *(
                    (
                        "Contents",
                        [
                            ("Key", encode(key)),
                            ("LastModified", _iso8601(self.objects[key].modified)),
                            ("ETag", self.objects[key].etag),
                            ("Type", "Normal"),
                            ("Size", str(len(self.objects[key].data))),
                            ("StorageClass", "Standard"),
                        ],
                    )
                    for key in chosen
                ),
            ],
        )


def cut_range(header: str, size: int, *, standard: bool) -> tuple[int, int] | None:
    """First byte and end of what a Range header means; None: the whole object.

    D developer-reference/getobject and user-guide/how-to-obtain-oss-resources-by-segmenting-http-
    range-requests: a range that is not valid is ignored, unless x-oss-range-behavior is standard.
    """
    match = _RANGE.fullmatch(header)
    if match is None or match[0] == "bytes=-":
        return None
    first = int(match[1]) if match[1] else max(0, size - int(match[2]))
    last = int(match[2]) if match[1] and match[2] else size - 1
    if first <= last < size:
        return first, last + 1
    if not standard:
        return None
    # D user-guide/http-status-code-416
    if first >= size or first > last:
        raise Refusal(416, "InvalidRange", "The requested range cannot be satisfied")
    return first, size


def _token(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _iso8601(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
