"""What an object may be called; the one place that decides it.

A name is one or more segments of ``a-z 0-9 . _ -``, joined by ``/``. No segment is empty or
begins with a dot, so a name is a safe relative path, a safe URL path, and never collides with
what a store keeps for itself. Case is left out because some file systems fold it.
A name is not the directory of another: beside ``a/b`` a store may refuse ``a``.
"""

from __future__ import annotations

import re

from buildsvc.errors import InvalidName

MAX_NAME = 512
"""Longest name, in bytes."""

MAX_SEGMENT = 255
"""Longest segment, in bytes: the limit of Linux file systems."""

_SEGMENT = re.compile(r"[a-z0-9_-][a-z0-9._-]*")
_PARTIAL_SEGMENT = re.compile(r"([a-z0-9_-][a-z0-9._-]*)?")


def is_name(name: str) -> bool:
    """Whether ``name`` is a valid object name."""
    return len(name) <= MAX_NAME and all(
        len(segment) <= MAX_SEGMENT and _SEGMENT.fullmatch(segment) for segment in name.split("/")
    )


def check_name(name: str) -> str:
    """Return ``name`` if it is a valid object name.

    Raises:
        InvalidName: it is not.
    """
    if not is_name(name):
        raise InvalidName(
            "this is not an object name",
            expected=f"at most {MAX_NAME} of a-z 0-9 . _ - in segments not beginning with a dot",
            found=repr(name[: MAX_NAME + 1]),
        )
    return name


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if names can begin with it; the empty prefix and half segments can.

    Raises:
        InvalidName: no valid name begins with it.
    """
    *whole, last = prefix.split("/")
    if (
        len(prefix) > MAX_NAME
        or not all(_SEGMENT.fullmatch(segment) for segment in whole)
        or not _PARTIAL_SEGMENT.fullmatch(last)
    ):
        raise InvalidName(
            "no object name begins with this prefix",
            expected="the beginning of a name: whole segments, the last one may be cut",
            found=repr(prefix[: MAX_NAME + 1]),
        )
    return prefix
