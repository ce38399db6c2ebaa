"""What a group of tasks failed of."""

from __future__ import annotations


def cause(failures: ExceptionGroup[Exception], expected: tuple[type[Exception], ...]) -> Exception:
    """Return the first of the expected failures, or the defects among them as a group.

    A task group wraps what ends it, and so does an ``except*``: callers who act on the kind
    of a failure need the failure itself.
    """
    _, defects = failures.split(expected)
    if defects is not None:
        return defects
    first: Exception = failures
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    return first
