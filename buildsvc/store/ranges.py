"""What every store says about bytes that cannot be had."""

from __future__ import annotations

from buildsvc.errors import ShortObject, UnreadableObject


def check_range(start: int, length: int) -> None:
    """Raise ``ValueError`` unless offset and length are possible ones."""
    if start < 0 or length < 0:
        raise ValueError(f"a range needs start >= 0 and length >= 0, not {start}, {length}")


def short_object(name: str, start: int, length: int, size: int | None) -> ShortObject:
    """The error for a range that ``name``, of ``size`` bytes if known, does not have."""
    return ShortObject(
        f"{name} is shorter than its readers expect",
        expected=f"at least {start + length} bytes",
        found="fewer" if size is None else f"{size} bytes",
    )


def too_large(name: str, limit: int, size: int | None = None) -> UnreadableObject:
    """The error for an object ``name``, of ``size`` bytes if known, of which ``limit`` are read."""
    return UnreadableObject(
        f"{name} is too large to be read at once",
        expected=f"at most {limit} bytes",
        found="more" if size is None else f"{size} bytes",
        advice="remove the object if buildsvc did not write it",
    )


def archived(name: str, found: str) -> UnreadableObject:
    """The error for an object that a bucket's rule has moved to where it cannot be read."""
    return UnreadableObject(
        f"{name} lies in an archive",
        found=found,
        advice="let no rule of the bucket move objects below the prefix to an archive class; what "
        "it has moved is stored again by builds that miss it",
    )
