"""Cache keys: who shares a cache, and for what.

A key's canonical text has five parts: ``tenant/trust domain/name/platform/compatibility``,
for example ``acme/protected/app%2Fmain/linux-amd64/buildkit-0.33``. The key's id, a hash of
that text, is what stands in object names: it spreads keys over the store's partitions and
lets no name of a branch become a path.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import quote, unquote

from buildsvc.cache.chunks import digest
from buildsvc.errors import ConfigError

MAX_NAME = 512
"""Bytes of a key's name in UTF-8."""
LAST_NUMBER = 2**63 - 1

_IDENTIFIER = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_PLATFORM = re.compile(r"[a-z0-9]+-[a-z0-9_]+(-[a-z0-9.]+)?")
_VERSION = re.compile(r"v?(\d{1,6})\.(\d{1,6})(\.\S*)?")
_NUMBER = re.compile(r"[0-9]{20}")


@dataclass(frozen=True)
class CacheKey:
    """A cache key. Raises ConfigError, with all that is wrong with it, when it is made.

    ``tenant``, ``trust_domain`` and ``compat`` are lower-case identifiers of up to 63
    characters; ``platform`` is os-architecture or os-architecture-variant; ``name`` is any
    printable text (a repository and a branch, with slashes or not).
    """

    tenant: str
    trust_domain: str
    name: str
    platform: str
    compat: str

    def __post_init__(self) -> None:
        wrong = [
            f"{what} {value!r} is not a lower-case identifier of 1 to 63 letters, digits, '.', "
            "'_' or '-'"
            for what, value in (
                ("tenant", self.tenant),
                ("trust domain", self.trust_domain),
                ("compatibility", self.compat),
            )
            if not _IDENTIFIER.fullmatch(value)
        ]
        if not _PLATFORM.fullmatch(self.platform) or len(self.platform) > 63:
            wrong.append(f"platform {self.platform!r} is not like linux-amd64")
        if not _is_name(self.name):
            wrong.append(f"name {self.name!r} is not printable text of 1 to {MAX_NAME} bytes")
        if wrong:
            raise ConfigError(f"cache key: {'; '.join(wrong)}")

    @classmethod
    def make(
        cls, *, tenant: str, trust_domain: str, name: str, platform: str, buildkit_version: str
    ) -> CacheKey:
        """The key for a platform as containers write it ("linux/arm64/v8") and a daemon's
        version ("v0.33.1"; its patch level does not matter). Raises ConfigError.
        """
        version = _VERSION.fullmatch(buildkit_version)
        if version is None:
            raise ConfigError(f"cache key: {buildkit_version!r} is no version of buildkitd")
        return cls(
            tenant=tenant,
            trust_domain=trust_domain,
            name=unicodedata.normalize("NFC", name.strip()),
            platform=platform.replace("/", "-"),
            compat=f"buildkit-{int(version[1])}.{int(version[2])}",
        )

    @classmethod
    def from_text(cls, text: str) -> CacheKey:
        """The key with this canonical text. Raises ConfigError when there is none."""
        parts = text.split("/")
        if len(parts) != 5:
            raise ConfigError(f"cache key: {text[:80]!r} does not have five parts")
        tenant, trust_domain, name, platform, compat = parts
        key = cls(tenant, trust_domain, unquote(name), platform, compat)
        if key.text != text:
            raise ConfigError(f"cache key: {text[:80]!r} is not how it is written")
        return key

    @property
    def text(self) -> str:
        """The canonical text; different keys have different texts."""
        name = quote(self.name, safe="")
        return "/".join((self.tenant, self.trust_domain, name, self.platform, self.compat))

    @property
    def id(self) -> str:
        """32 hex digits."""
        return digest(self.text.encode()).hex()[:32]

    @property
    def object_name(self) -> str:
        """The store's name of the object that tells the key's text."""
        return f"keys/{self.id}/key"

    @property
    def heads_prefix(self) -> str:
        """What the store's names of the key's heads begin with."""
        return f"keys/{self.id}/heads/"

    def head_name(self, number: int) -> str:
        """The store's name of a head, numbered from 1."""
        if not 0 < number <= LAST_NUMBER:
            raise ValueError(f"heads are numbered from 1 to {LAST_NUMBER}, not {number}")
        return f"{self.heads_prefix}{number:020d}"

    def head_number(self, name: str) -> int | None:
        """The number of a head of this key from its name; None for any other name."""
        digits = name.removeprefix(self.heads_prefix)
        return None if digits == name else parse_number(digits)


def parse_number(digits: str) -> int | None:
    """The number of an object of a log, from the 20 digits that its name ends in."""
    number = int(digits) if _NUMBER.fullmatch(digits) else 0
    return number if 0 < number <= LAST_NUMBER else None


def _is_name(name: str) -> bool:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= MAX_NAME and name.isprintable()
