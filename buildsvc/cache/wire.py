"""How much there is in a serialised protobuf message, found out without making one.

A submessage takes two bytes where it is serialised and some fifty in memory, so a limit of bytes
alone bounds nothing (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from buildsvc.errors import CorruptObject

if TYPE_CHECKING:
    from buildsvc.cache.chunks import Buffer

Nested: TypeAlias = Mapping[int, "Nested"]
"""The numbers of fields that are messages, each with its own."""

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def expect_fields(data: Buffer, nested: Nested, most: int) -> None:
    """Raises CorruptObject if the message has more fields than so many, those in it included.

    A packed field is one. Takes half a microsecond a field.
    """
    _count(data, 0, len(data), nested, most)


def _count(data: Buffer, at: int, end: int, nested: Nested, left: int) -> int:
    """How many of those that are left it leaves."""
    try:
        while at < end:
            left -= 1
            if left < 0:
                raise CorruptObject("a message with too many fields")
            key, at = _varint(data, at)
            kind, number = key & 7, key >> 3
            if kind == _DELIMITED:
                length, at = _varint(data, at)
                if number in nested and at + length <= end:
                    left = _count(data, at, at + length, nested[number], left)
                at += length
            elif kind == _VARINT:
                _, at = _varint(data, at)
            elif kind == _FIXED64:
                at += 8
            elif kind == _FIXED32:
                at += 4
            else:
                raise CorruptObject("a message with a field that is none")
    except IndexError:
        raise CorruptObject("a message that ends within a field") from None
    return left


def _varint(data: Buffer, at: int) -> tuple[int, int]:
    """A number, and where it ends. Raises IndexError."""
    number = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    raise CorruptObject("a message with a number out of range")
