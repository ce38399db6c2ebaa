"""What the addresses of buckets have in common: ``KIND://bucket[/prefix][?name=value&…]``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlsplit

from buildsvc.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

MAX_PREFIX = 400
"""Longest prefix, in bytes: a key of S3 or OSS has at most 1023, a name of ours 512."""

_PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class BucketForm:
    """How the addresses of one kind of buckets look."""

    text: str
    """For people."""
    bucket: re.Pattern[str]
    host: re.Pattern[str]
    """Of an endpoint, without its port."""
    parameters: tuple[str, ...]

    def read(self, parts: SplitResult) -> tuple[str, str, Mapping[str, str]]:
        """Bucket, prefix without slashes at its ends, and parameters.

        Raises:
            ConfigError: it is not of this form. Nothing of it is repeated: who takes an address
                for a place for keys may have put them anywhere.
        """
        if not self.bucket.fullmatch(parts.netloc):
            raise self.wrong(f"what follows {parts.scheme}:// is no name of a bucket")
        if parts.fragment:
            raise self.wrong("an address has no fragment")
        prefix = parts.path.strip("/")
        if prefix and (len(prefix) > MAX_PREFIX or not _PREFIX.fullmatch(prefix)):
            raise self.wrong(
                "the prefix is not of A-Z a-z 0-9 . _ - in segments that begin with no dot, or "
                f"has more than {MAX_PREFIX} bytes"
            )
        return parts.netloc, prefix, self._parameters(parts.query)

    def choice(self, given: Mapping[str, str], name: str, values: Collection[str]) -> str | None:
        """The parameter, which is one of ``values``; None if it is not given."""
        value = given.get(name)
        if value is not None and value not in values:
            raise self.wrong(f"{name} is none of {', '.join(values)}")
        return value

    def endpoint(self, text: str, called: str = "endpoint") -> str:
        """Return ``http(s)://host[:port]``, which ``called`` gave, without a slash at its end.

        Raises:
            ConfigError: it is something else.
        """
        try:
            parts = urlsplit(text)
            host = parts.netloc.removesuffix(f":{parts.port}")
        except ValueError:
            raise self.wrong(f"{called} is no http(s)://host[:port]") from None
        if parts.scheme not in {"http", "https"} or not self.host.fullmatch(host):
            raise self.wrong(f"{called} is no http(s)://host[:port]")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise self.wrong(f"{called} has more than http(s)://host[:port]")
        return f"{parts.scheme}://{parts.netloc}"

    def wrong(self, what: str) -> ConfigError:
        """The error for an address of which this is wrong."""
        return ConfigError(
            "not the address of a bucket",
            expected=self.text,
            found=what,
            advice="credentials come from the environment or a file; see docs/operations.md",
        )

    def _parameters(self, query: str) -> Mapping[str, str]:
        try:
            pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
        except ValueError:
            raise self.wrong("what follows ? is no list of name=value") from None
        given = dict(pairs)
        if len(given) < len(pairs):
            raise self.wrong("a parameter is given twice")
        if not given.keys() <= set(self.parameters):
            raise self.wrong(f"there are parameters other than {', '.join(self.parameters)}")
        return given
