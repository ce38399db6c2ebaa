"""The address of a bucket of Alibaba Cloud OSS.

``oss://BUCKET[/PREFIX]?region=REGION[&internal=true][&endpoint=URL][&credentials=KIND]``
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, urlsplit

from buildsvc.errors import ConfigError
from buildsvc.store.address import shown_address

if TYPE_CHECKING:
    from urllib.parse import SplitResult

CredentialKind = Literal["environment", "file", "ecs", "oidc"]

OSS_FORM = "oss://bucket[/prefix]?region=cn-hangzhou"
CREDENTIAL_KINDS: tuple[CredentialKind, ...] = ("environment", "file", "ecs", "oidc")

MAX_PREFIX = 400
"""Bytes: with the longest object name it stays below the 1023 of an OSS key."""

# https://www.alibabacloud.com/help/en/oss/user-guide/bucket-naming-conventions
_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+")
_PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
# A name, because the bucket's is put before it: an address of the Internet protocol has none.
_HOST = re.compile(r"([a-z0-9-]+\.)+[a-z][a-z0-9-]*(:[0-9]+)?")
_PARAMETERS = ("region", "internal", "endpoint", "credentials")


@dataclass(frozen=True, slots=True)
class OssAddress:
    """Where a store lies in OSS."""

    bucket: str
    prefix: str
    """Of all keys; without slashes at its ends."""
    region: str
    """Such as ``cn-hangzhou``."""
    endpoint: str
    """``http(s)://host[:port]`` of the service, without the bucket."""
    credentials: CredentialKind | None
    """Where credentials come from; None: from what the environment has variables for."""

    @property
    def bucket_url(self) -> str:
        """Where the bucket answers: a host of its own, the only way that OSS accepts."""
        scheme, _, host = self.endpoint.partition("://")
        return f"{scheme}://{self.bucket}.{host}"

    @property
    def internal(self) -> bool:
        """Whether the endpoint is reached from inside the region's network only."""
        return "-internal." in self.endpoint

    def key(self, name: str) -> str:
        """The key of an object, or the beginning of keys."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def name(self, key: str) -> str:
        """The name of the object that has this key."""
        return key[len(self.prefix) + 1 :] if self.prefix else key


def parse_oss_address(address: str) -> OssAddress:
    """Read an address that begins with ``oss://``; raises ``ConfigError``."""
    try:
        return _parse(urlsplit(address))
    except _MalformedError as error:
        raise ConfigError(
            "not the address of an OSS bucket",
            expected=f"{OSS_FORM}, with {error}",
            found=shown_address(address),
        ) from None


class _MalformedError(Exception):
    """Its text says what was expected."""


def _parse(parts: SplitResult) -> OssAddress:
    if "@" in parts.netloc:
        raise ConfigError(
            "the store's address contains credentials",
            expected=OSS_FORM,
            advice="addresses are logged and seen in process lists; take them out",
        )
    if not _BUCKET.fullmatch(parts.netloc):
        raise _MalformedError("a bucket's name of 3 to 63 of a-z 0-9 and -")
    prefix = parts.path.strip("/")
    if prefix and (len(prefix) > MAX_PREFIX or not _PREFIX.fullmatch(prefix)):
        raise _MalformedError(
            f"a prefix of at most {MAX_PREFIX} of A-Z a-z 0-9 . _ - in segments that do not "
            "begin with a dot"
        )
    if parts.fragment:
        raise _MalformedError("no fragment")
    given = _parameters(parts.query)
    region = given.get("region", "")
    if not _REGION.fullmatch(region) or region.startswith("oss-"):
        raise _MalformedError("a region such as cn-hangzhou, without oss-")
    kind = given.get("credentials")
    if kind is not None and kind not in CREDENTIAL_KINDS:
        raise _MalformedError(f"credentials to be one of {', '.join(CREDENTIAL_KINDS)}")
    return OssAddress(parts.netloc, prefix, region, _endpoint(given, region), kind)


def _parameters(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        pairs = [("", "")]
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names) or not set(names) <= set(_PARAMETERS):
        raise _MalformedError(f"of {', '.join(_PARAMETERS)} each at most once, and nothing else")
    return dict(pairs)


def _endpoint(given: dict[str, str], region: str) -> str:
    # https://www.alibabacloud.com/help/en/oss/user-guide/regions-and-endpoints
    internal = given.get("internal", "false")
    if internal not in {"true", "false"}:
        raise _MalformedError("internal to be true or false")
    if "endpoint" not in given:
        return f"https://oss-{region}{'-internal' if internal == 'true' else ''}.aliyuncs.com"
    if "internal" in given:
        raise _MalformedError("either an endpoint or internal: an endpoint says it itself")
    problem = _MalformedError("an endpoint such as https://oss-cn-hangzhou-internal.aliyuncs.com")
    try:
        endpoint = urlsplit(given["endpoint"])
        # Looked at only when it is asked for.
        _ = endpoint.port
    except ValueError:
        raise problem from None
    if (
        endpoint.scheme not in {"http", "https"}
        or not _HOST.fullmatch(endpoint.netloc)
        or endpoint.path.strip("/")
        or endpoint.query
        or endpoint.fragment
    ):
        raise problem
    return f"{endpoint.scheme}://{endpoint.netloc}"
