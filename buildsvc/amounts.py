"""Times and sizes on the command line of those who keep the cache.

A time has a unit here, other than in the sidecar's settings: ``--max-age 30`` is meant in days.
"""

from __future__ import annotations

import re

DAY = 24 * 3600.0
"""Seconds."""

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])")
_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([KMGT]?)(i?)B")


def parse_count(text: str) -> int:
    """A number from 1. Raises ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parse_duration(text: str) -> float:
    """Seconds, of ``30s``, ``90m``, ``1.5h`` or ``30d``. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes, of ``500GB`` (in thousands) or ``512MiB`` (in 1024s). Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None or (match[3] and not match[2]):
        raise ValueError(text)
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index(match[2] or " "))


def shown_bytes(size: float) -> str:
    """A size for people."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
