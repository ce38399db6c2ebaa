"""Takes secrets out of what is logged, shown or packed for others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

_SECRET_KEY = re.compile(
    r"token|secret|passw|authorization|credential|access_?key|private_?key|signature|cookie",
    re.IGNORECASE,
)
_PATTERNS = [
    # User information of an URL; to the last @, because a password may have one.
    (re.compile(r"(\w://)[^/\s\"']+@"), rf"\1{MASK}@"),
    # Signed URLs and the like.
    (
        re.compile(
            r"([?&][^=&\s\"']*(?:token|secret|sig|key|credential|passw)[^=&\s\"']*=)[^&\s\"']+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # HTTP headers in error texts.
    (re.compile(r"\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    (
        re.compile(
            r"(authorization[\"']?\s*[:=]\s*[\"']?)(?!\s*(?:bearer|basic)\b)[^\s\"',]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
]


def redacted_text(text: str) -> str:
    """Return the text without passwords in URLs, signed query parameters and HTTP credentials."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redacted(value: object, key: str = "") -> Any:  # noqa: ANN401  the same shape as the value
    """Return a copy of a JSON-like value without secrets, by keys' names and in strings."""
    if key and _SECRET_KEY.search(key) and value:
        return MASK
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, bytes):
        return redacted_text(value.decode(errors="replace"))
    if isinstance(value, Mapping):
        return {str(name): redacted(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    # Exceptions, paths and other objects are shown by their text.
    return redacted_text(str(value))
