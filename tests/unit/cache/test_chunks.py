"""Chunks come back exactly, or not at all."""

from __future__ import annotations

import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from buildsvc.cache import chunks
from buildsvc.errors import CorruptObject

TEXT = b"the same words again and again, " * 8


@given(st.binary(min_size=1, max_size=5000), st.sampled_from([1, 3, 9]))
def test_round_trip(data: bytes, level: int) -> None:
    stored = chunks.encode(data, level)
    assert 0 < len(stored) <= len(data)
    assert chunks.decode(stored, len(data), chunks.digest(data)) == data


def test_compresses_what_can_be_and_keeps_what_cannot() -> None:
    noise = os.urandom(4096)
    assert chunks.encode(noise) == noise
    assert len(chunks.encode(TEXT)) < len(TEXT) // 4


def test_accepts_views() -> None:
    view = memoryview(bytearray(TEXT))[3:100]
    stored = memoryview(chunks.encode(view))
    assert chunks.decode(stored, 97, chunks.digest(view)) == TEXT[3:100]


@pytest.mark.parametrize("size", [0, chunks.MAX_LENGTH + 1])
def test_encodes_no_other_length(size: int) -> None:
    with pytest.raises(ValueError, match="a chunk has"):
        chunks.encode(bytes(size))


def test_largest_chunk() -> None:
    data = bytes(chunks.MAX_LENGTH)
    assert chunks.decode(chunks.encode(data), len(data), chunks.digest(data)) == data


@pytest.mark.parametrize("data", [TEXT, os.urandom(200)], ids=["compressed", "plain"])
def test_truncated_at_every_byte(data: bytes) -> None:
    stored = chunks.encode(data)
    for end in range(len(stored)):
        with pytest.raises(CorruptObject):
            chunks.decode(stored[:end], len(data), chunks.digest(data))


@pytest.mark.parametrize("data", [TEXT, os.urandom(200)], ids=["compressed", "plain"])
def test_flipped_at_every_bit(data: bytes) -> None:
    stored = chunks.encode(data)
    for bit in range(8 * len(stored)):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decoded = chunks.decode(flipped, len(data), chunks.digest(data))
        except CorruptObject:
            continue
        # A few bits of a frame's header carry no information.
        assert decoded == data
        assert bit < 8 * 16, "a bit of content was ignored"


def test_wrong_lengths_and_digest() -> None:
    stored = chunks.encode(TEXT)
    name = chunks.digest(TEXT)
    for length in (0, 1, len(stored), len(TEXT) - 1, len(TEXT) + 1, chunks.MAX_LENGTH + 1, 1 << 40):
        with pytest.raises(CorruptObject):
            chunks.decode(stored, length, name)
    with pytest.raises(CorruptObject):
        chunks.decode(stored, len(TEXT), chunks.digest(b"other"))
    with pytest.raises(CorruptObject):
        chunks.decode(stored + b"more", len(TEXT), name)


def test_a_chunk_that_is_too_long() -> None:
    data = bytes(chunks.MAX_LENGTH + 1)
    frame = zstandard.ZstdCompressor().compress(data)
    with pytest.raises(CorruptObject, match="cannot be"):
        chunks.decode(frame, len(data), chunks.digest(data))


def test_a_frame_that_declares_no_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(TEXT)
    with pytest.raises(CorruptObject, match="declares"):
        chunks.decode(frame, len(TEXT), chunks.digest(TEXT))


def test_a_bomb_allocates_nothing() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(256 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObject, match="declares"):
            chunks.decode(bomb, chunks.MAX_LENGTH, chunks.digest(b""))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_threads_do_not_share_contexts() -> None:
    data = [os.urandom(50) * 2000 + bytes([n]) for n in range(64)]

    def there_and_back(one: bytes) -> bytes:
        return chunks.decode(chunks.encode(one), len(one), chunks.digest(one))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(there_and_back, data)) == data


def test_split_digests() -> None:
    names = [chunks.digest(bytes([n])) for n in range(3)]
    assert chunks.split_digests(b"".join(names)) == names
    assert chunks.split_digests(b"") == []
    with pytest.raises(CorruptObject):
        chunks.split_digests(bytes(33))
