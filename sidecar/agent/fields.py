"""Fields of the messages to the guard, checked. Standard library only, and little."""

from __future__ import annotations


class ProtocolError(Exception):
    """A message that the other side should not have sent."""


def strings(value: object) -> list[str]:
    """A list of strings. Raises ProtocolError; so do the others."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ProtocolError("expected a list of strings")
    return list(value)


def environment(value: object) -> dict[str, str]:
    """An object of strings."""
    if not isinstance(value, dict):
        raise ProtocolError("expected an object of strings")
    return dict(zip(strings(list(value)), strings(list(value.values())), strict=True))


def numbers(value: object) -> list[int]:
    """A list of whole numbers."""
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise ProtocolError("expected a list of numbers")
    return list(value)
