"""Fields are counted without a message being made."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.wire import Nested, expect_fields
from buildsvc.errors import CorruptObject

TRACE: Nested = {23: {}}


def root(used: int) -> bytes:
    """The version, the trace, and what it has."""
    trace = cache_pb2.Trace(used=["x"] * used)
    return cache_pb2.Root(format_version=1, trace=trace, chunk_lengths=[1] * 9).SerializeToString()


def test_what_is_counted() -> None:
    expect_fields(root(4), TRACE, 7)
    with pytest.raises(CorruptObject, match="too many fields"):
        expect_fields(root(4), TRACE, 6)
    # Of what is no message the bytes do not matter.
    expect_fields(root(4), {}, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x08", "ends within"),
        (b"\x52\x80", "ends within"),
        (b"\x0b", "is none"),
        (b"\x08" + b"\xff" * 10, "out of range"),
    ],
)
def test_what_is_no_message(data: bytes, message: str) -> None:
    with pytest.raises(CorruptObject, match=message):
        expect_fields(data, TRACE, 9)


def test_fixed_numbers_are_fields_too() -> None:
    both = b"\x09" + bytes(8) + b"\x0d" + bytes(4)
    expect_fields(both, {}, 2)
    with pytest.raises(CorruptObject, match="too many"):
        expect_fields(both, {}, 1)


@given(st.binary(max_size=200))
def test_anything_else(data: bytes) -> None:
    with suppress(CorruptObject):
        expect_fields(data, TRACE, 50)
