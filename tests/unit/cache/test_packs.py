"""Packs hold what was added, and nothing that was changed since."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildsvc.cache import chunks, packs
from buildsvc.errors import CorruptObject, UnsupportedFormat
from tests.unit.cache.fakes import write_pack

CONTENTS = [b"alpha " * 20, b"beta", os.urandom(40)]


@settings(max_examples=50)
@given(
    st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=20),
    st.integers(min_value=1, max_value=1000),
)
def test_round_trip(contents: list[bytes], target: int) -> None:
    with TemporaryDirectory() as name:
        directory = Path(name)
        writer = packs.PackWriter(directory, target)
        finished = [
            writer.add(chunks.digest(content), chunks.encode(content), len(content))
            for content in contents
        ]
        found = set()
        for pack in [*finished, writer.finish()]:
            if pack is None:
                continue
            data = pack.path.read_bytes()
            assert len(data) == pack.size
            assert pack.path == directory / f"{pack.digest.hex()}.pack"
            index = packs.verify(data, pack.digest)
            assert b"".join(index.digests) == pack.chunk_digests
            assert index.offsets == pack.chunk_offsets
            assert index.stored == pack.chunk_stored
            assert index.lengths == pack.chunk_lengths
            for digest, at, stored, length in zip(
                index.digests, index.offsets, index.stored, index.lengths, strict=True
            ):
                found.add(chunks.decode(data[at : at + stored], length, digest))
        assert found == set(contents)
        assert not [path for path in directory.iterdir() if path.name.startswith(".")]


def test_closes_when_full(tmp_path: Path) -> None:
    writer = packs.PackWriter(tmp_path, target=100)
    parts = [os.urandom(60) for _ in range(3)]
    assert writer.add(chunks.digest(parts[0]), parts[0], 60) is None
    assert writer.open_size == 60
    full = writer.add(chunks.digest(parts[1]), parts[1], 60)
    assert full is not None
    assert writer.open_size == 0
    assert writer.add(chunks.digest(parts[2]), parts[2], 60) is None
    rest = writer.finish()
    assert rest is not None
    assert [len(full.chunk_lengths), len(rest.chunk_lengths)] == [2, 1]
    assert writer.finish() is None


def test_a_chunk_is_written_once(tmp_path: Path) -> None:
    pack = write_pack(tmp_path, [b"same", b"other", b"same"])
    assert pack.chunk_digests == chunks.digest(b"same") + chunks.digest(b"other")


def test_the_same_chunks_make_another_pack(tmp_path: Path) -> None:
    """A collection that has condemned the first may delete it at any later time."""
    first, second = write_pack(tmp_path, CONTENTS), write_pack(tmp_path, CONTENTS)
    assert first.digest != second.digest
    assert first.chunk_digests == second.chunk_digests


def test_refuses_what_is_no_chunk(tmp_path: Path) -> None:
    writer = packs.PackWriter(tmp_path)
    name = chunks.digest(b"x")
    for digest, stored, length in [(name[1:], b"x", 1), (name, b"", 1), (name, b"xy", 1)]:
        with pytest.raises(ValueError, match="no chunk"):
            writer.add(digest, stored, length)
    assert writer.finish() is None
    assert list(tmp_path.iterdir()) == []


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    writer = packs.PackWriter(tmp_path)
    writer.discard()
    writer.add(chunks.digest(b"x"), b"x", 1)
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    assert writer.finish() is None


def test_after_an_error_of_the_disk_the_writer_goes_on(tmp_path: Path) -> None:
    writer = packs.PackWriter(tmp_path / "sub")
    with pytest.raises(FileNotFoundError):
        writer.add(chunks.digest(b"x"), b"x", 1)
    (tmp_path / "sub").mkdir()
    writer.discard()
    writer.add(chunks.digest(b"x"), b"x", 1)
    assert writer.finish() is not None


def test_index_from_the_tail(tmp_path: Path) -> None:
    pack = write_pack(tmp_path, CONTENTS)
    data = pack.path.read_bytes()
    tail = packs.tail_length(data[-packs.TRAILER_SIZE :], len(data))
    assert tail == packs.TRAILER_SIZE + 40 * len(CONTENTS)
    index = packs.read_index(data[-tail:], len(data))
    assert index.offsets == pack.chunk_offsets
    with pytest.raises(CorruptObject, match="do not hold it"):
        packs.read_index(data[-tail + 1 :], len(data))


def test_truncated_at_every_byte(tmp_path: Path) -> None:
    pack = write_pack(tmp_path, CONTENTS)
    data = pack.path.read_bytes()
    for end in range(len(data)):
        with pytest.raises(CorruptObject):
            packs.verify(data[:end], pack.digest)
        with pytest.raises(CorruptObject):
            packs.read_index(data[:end], end)


def test_flipped_at_every_bit(tmp_path: Path) -> None:
    pack = write_pack(tmp_path, CONTENTS)
    data = pack.path.read_bytes()
    good = packs.verify(data, pack.digest)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptObject):
            packs.verify(flipped, pack.digest)
        # Without the pack's name the index is still right, or refused.
        try:
            index = packs.read_index(flipped, len(flipped))
        except (CorruptObject, UnsupportedFormat):
            assert bit >= 8 * good.offsets[-1] + 8 * good.stored[-1]
        else:
            assert index == good


def forged(digests: list[bytes], stored: list[int], lengths: list[int], data: bytes) -> bytes:
    """A pack whose index is wrong and whose digests are right."""
    count = len(digests)
    index = b"".join(digests) + struct.pack(f"<{2 * count}I", *stored, *lengths)
    trailer = struct.pack(
        "<32s16sQII8s", chunks.digest(index), bytes(16), len(data), len(index), 2, b"bsvcpack"
    )
    return data + index + trailer


ONE, TWO = chunks.digest(b"one"), chunks.digest(b"two")


@pytest.mark.parametrize(
    ("digests", "stored", "lengths"),
    [
        ([ONE, TWO], [3, 4], [3, 4]),
        ([ONE, TWO], [6, 0], [6, 3]),
        ([ONE, TWO], [3, 3], [3, 2]),
        ([ONE, TWO], [3, 3], [3, chunks.MAX_LENGTH + 1]),
        ([ONE, ONE], [3, 3], [3, 3]),
        ([ONE], [3], [3]),
    ],
    ids=["sum", "empty", "longer than its chunk", "too long", "twice", "gap"],
)
def test_a_forged_index(digests: list[bytes], stored: list[int], lengths: list[int]) -> None:
    data = forged(digests, stored, lengths, b"onetwo")
    with pytest.raises(CorruptObject, match="pack index"):
        packs.read_index(data, len(data))


def test_a_valid_index_over_other_chunks() -> None:
    data = forged([ONE, TWO], [3, 3], [3, 3], b"onexxx")
    packs.read_index(data, len(data))
    with pytest.raises(CorruptObject, match="another digest"):
        packs.verify(data, chunks.digest(data))


def test_another_version() -> None:
    data = bytearray(forged([ONE], [3], [3], b"one"))
    data[-12:-8] = (1).to_bytes(4, "little")
    with pytest.raises(UnsupportedFormat, match="found: 1"):
        packs.read_index(data, len(data))


def test_bytes_that_nobody_accounts_for() -> None:
    data = b"more" + forged([ONE], [3], [3], b"one")
    with pytest.raises(CorruptObject, match="contradicts"):
        packs.read_index(data, len(data))


def test_too_large() -> None:
    size = packs.MAX_PACK + 1
    trailer = struct.pack(
        "<32s16sQII8s", bytes(32), bytes(16), size - packs.TRAILER_SIZE - 40, 40, 2, b"bsvcpack"
    )
    with pytest.raises(CorruptObject, match="are none"):
        packs.tail_length(trailer, size)


def test_names() -> None:
    assert packs.pack_name(b"\xab" + bytes(31)) == f"packs/ab/ab{'00' * 31}"
