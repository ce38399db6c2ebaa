"""The address of a bucket: ``s3://bucket[/prefix][?endpoint=URL&region=NAME&style=path|virtual]``.

No client is imported to read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from buildsvc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

S3_ADDRESS = "s3://bucket[/prefix][?endpoint=https://host[:port]&region=NAME&style=path|virtual]"

MAX_PREFIX = 400
"""Longest prefix, in bytes: a key of S3 has at most 1024, a name of ours 512."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_REGION = re.compile(r"[a-z0-9-]{1,40}")
_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]")
_STYLES = frozenset({"path", "virtual"})
_KEYS = frozenset({"endpoint", "region", "style"})


@dataclass(frozen=True, slots=True)
class S3Address:
    """Where objects lie. What is None is for the environment to say."""

    bucket: str
    prefix: str = ""
    """Before each name; empty, or ends in a slash."""
    endpoint: str | None = None
    """``http(s)://host[:port]``, without the bucket."""
    region: str | None = None
    virtual: bool = False
    """Whether the bucket is part of the host's name, not of the path."""

    def __str__(self) -> str:
        """For messages."""
        place = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        return f"{place} at {self.endpoint}" if self.endpoint else place


def s3_address(parts: SplitResult) -> S3Address:
    """Read an address that was split; ``style`` is ``path`` unless it says otherwise.

    Raises:
        ConfigError: it is not one, or has credentials in it. Values are not repeated: who takes
            a bucket's address for a place for keys may have put them anywhere.
    """
    if "@" in parts.netloc:
        raise ConfigError(
            "the store's address contains credentials",
            expected="an address without user and password",
            advice="addresses are logged and seen in process lists; take them out",
        )
    if not _BUCKET.fullmatch(parts.netloc):
        raise _wrong("what follows s3:// is no name of a bucket")
    if parts.fragment:
        raise _wrong("an address has no fragment")
    options = _options(parts.query)
    endpoint = options.get("endpoint")
    region = options.get("region")
    style = options.get("style", "path")
    if region is not None and not _REGION.fullmatch(region):
        raise _wrong("region is no name of a region")
    if style not in _STYLES:
        raise _wrong("style is neither path nor virtual")
    return S3Address(
        parts.netloc,
        _prefix(unquote(parts.path)),
        None if endpoint is None else check_endpoint(endpoint, "endpoint"),
        region,
        virtual=style == "virtual",
    )


def check_endpoint(endpoint: str, called: str) -> str:
    """Return the endpoint, which ``called`` gave, without a slash at its end.

    Raises:
        ConfigError: it is something else than ``http(s)://host[:port]``.
    """
    parts = urlsplit(endpoint)
    try:
        host = _HOST.fullmatch(parts.netloc.removesuffix(f":{parts.port}"))
    except ValueError:
        host = None
    if parts.scheme not in {"http", "https"} or host is None:
        raise _wrong(f"{called} is no http(s)://host[:port]")
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise _wrong(f"{called} has more than http(s)://host[:port]")
    return endpoint.rstrip("/")


def _options(query: str) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as error:
        raise _wrong("what follows ? is no list of name=value") from error
    options = dict(pairs)
    if len(options) < len(pairs):
        raise _wrong("an option is given twice")
    if not options.keys() <= _KEYS:
        raise _wrong(f"there are options other than {', '.join(sorted(_KEYS))}")
    return options


def _prefix(path: str) -> str:
    prefix = path.strip("/")
    if not prefix:
        return ""
    if len(prefix) > MAX_PREFIX or not all(_SEGMENT.fullmatch(s) for s in prefix.split("/")):
        raise _wrong(
            f"the prefix is not of A-Z a-z 0-9 . _ - in segments that begin with no dot, or has "
            f"more than {MAX_PREFIX} bytes"
        )
    return f"{prefix}/"


def _wrong(what: str) -> ConfigError:
    return ConfigError(
        "not the address of a bucket",
        expected=S3_ADDRESS,
        found=what,
        advice="credentials come from the environment or a file; see docs/operations.md",
    )
