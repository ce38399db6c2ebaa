"""Where the verify keys of a trust domain lie, as command lines and settings say it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class KeyPlace(NamedTuple):
    """A trust domain, and the file or directory of its keys."""

    tenant: str
    trust_domain: str
    path: Path


def parse_key_place(text: str) -> KeyPlace:
    """The place in ``TENANT/DOMAIN=PATH``. Raises ValueError, which says what was expected."""
    scope, _, path = text.partition("=")
    tenant, _, domain = scope.partition("/")
    if not tenant or not domain or not path or "/" in domain:
        raise ValueError(f"expected TENANT/DOMAIN=PATH, found {text!r}")
    return KeyPlace(tenant, domain, Path(path))
