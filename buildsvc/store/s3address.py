"""The address of a bucket: ``s3://bucket[/prefix][?endpoint=URL&region=NAME&style=path|virtual]``.

No client is imported to read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildsvc.store.bucketaddress import BucketForm

if TYPE_CHECKING:
    from urllib.parse import SplitResult

S3_FORM = BucketForm(
    "s3://bucket[/prefix][?endpoint=https://host[:port]&region=NAME&style=path|virtual]",
    re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"),
    re.compile(r"[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]"),
    ("endpoint", "region", "style"),
)

_REGION = re.compile(r"[a-z0-9-]{1,40}")


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


def s3_address(parts: SplitResult) -> S3Address:
    """Read an address that was split; ``style`` is ``path`` unless it says otherwise.

    Raises:
        ConfigError: it is not one.
    """
    bucket, prefix, given = S3_FORM.read(parts)
    region = given.get("region")
    if region is not None and not _REGION.fullmatch(region):
        raise S3_FORM.wrong("region is no name of a region")
    return S3Address(
        bucket,
        f"{prefix}/" if prefix else "",
        S3_FORM.endpoint(given["endpoint"]) if "endpoint" in given else None,
        region,
        virtual=S3_FORM.choice(given, "style", ("path", "virtual")) == "virtual",
    )
