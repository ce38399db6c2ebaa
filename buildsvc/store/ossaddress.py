"""The address of a bucket of Alibaba Cloud OSS.

``oss://BUCKET[/PREFIX]?region=REGION[&internal=true][&endpoint=URL][&credentials=KIND]``
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from buildsvc.store.bucketaddress import BucketForm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from urllib.parse import SplitResult

CredentialKind = Literal["environment", "file", "ecs", "oidc"]

CREDENTIAL_KINDS: tuple[CredentialKind, ...] = ("environment", "file", "ecs", "oidc")

OSS_FORM = BucketForm(
    "oss://bucket[/prefix]?region=cn-hangzhou[&internal=true][&endpoint=https://host[:port]]"
    f"[&credentials={'|'.join(CREDENTIAL_KINDS)}]",
    # https://www.alibabacloud.com/help/en/oss/user-guide/bucket-naming-conventions
    re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]"),
    # A name, because the bucket's is put before it: an address of the Internet protocol has none.
    re.compile(r"([a-z0-9-]+\.)+[a-z][a-z0-9-]*"),
    ("region", "internal", "endpoint", "credentials"),
)

_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+")


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


def oss_address(parts: SplitResult) -> OssAddress:
    """Read an address that was split.

    Raises:
        ConfigError: it is not one.
    """
    bucket, prefix, given = OSS_FORM.read(parts)
    region = given.get("region", "")
    if not _REGION.fullmatch(region) or region.startswith("oss-"):
        raise OSS_FORM.wrong("there is no region such as cn-hangzhou, without oss-")
    kind = OSS_FORM.choice(given, "credentials", CREDENTIAL_KINDS)
    return OssAddress(
        bucket, prefix, region, _endpoint(given, region), cast("CredentialKind | None", kind)
    )


def _endpoint(given: Mapping[str, str], region: str) -> str:
    # https://www.alibabacloud.com/help/en/oss/user-guide/regions-and-endpoints
    internal = OSS_FORM.choice(given, "internal", ("true", "false"))
    if "endpoint" not in given:
        return f"https://oss-{region}{'-internal' if internal == 'true' else ''}.aliyuncs.com"
    if internal is not None:
        raise OSS_FORM.wrong("there are both endpoint and internal: an endpoint says it itself")
    return OSS_FORM.endpoint(given["endpoint"])
