"""What every store says about a range of bytes that cannot be."""

from __future__ import annotations

from buildsvc.errors import ShortObject


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
