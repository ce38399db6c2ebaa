"""Cuts are stable: a change moves those near it, a new release moves none."""

from __future__ import annotations

import hashlib
import mmap
import random
from typing import TYPE_CHECKING

import pytest

from buildsvc.cache import chunking, chunks

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def cut(data: bytes, grain: chunking.Grain = chunking.COARSE) -> list[bytes]:
    return [data[offset : offset + length] for offset, length in chunking.split(data, grain)]


@pytest.mark.parametrize(
    "size", [0, 1, chunking.COARSE.minimum, chunking.COARSE.minimum + 1, 3 * MIB, 20 * MIB + 7]
)
@pytest.mark.parametrize("grain", [chunking.COARSE, chunking.FINE])
def test_covers_everything_within_the_limits(size: int, grain: chunking.Grain) -> None:
    data = noise(size)
    pieces = cut(data, grain)
    assert b"".join(pieces) == data
    assert all(len(piece) <= grain.maximum for piece in pieces)
    assert all(len(piece) >= grain.minimum for piece in pieces[:-1])
    assert all(pieces)


def test_content_without_cuts_is_cut_at_the_limit() -> None:
    assert {len(piece) for piece in cut(bytes(16 * MIB))} == {chunking.COARSE.maximum}
    assert chunking.COARSE.maximum == chunks.MAX_LENGTH


def test_mean_is_near_the_average() -> None:
    count = len(cut(noise(64 * MIB)))
    assert 64 / 2 < count < 64 * 1.5


def test_an_insertion_moves_only_the_cuts_near_it() -> None:
    data = noise(24 * MIB)
    changed = data[: 9 * MIB] + b"inserted" + data[9 * MIB :]
    before = {chunks.digest(piece) for piece in cut(data)}
    after = [piece for piece in cut(changed) if chunks.digest(piece) not in before]
    assert sum(map(len, after)) < 8 * MIB


def test_a_changed_page_of_a_database_moves_little() -> None:
    data = noise(4 * MIB)
    changed = data[:MIB] + noise(4096, seed=2) + data[MIB + 4096 :]
    before = {chunks.digest(piece) for piece in cut(data, chunking.FINE)}
    after = [p for p in cut(changed, chunking.FINE) if chunks.digest(p) not in before]
    assert 4096 <= sum(map(len, after)) <= 2 * chunking.FINE.maximum


def test_cuts_are_the_same_in_every_release() -> None:
    lengths = [length for _, length in chunking.split(noise(32 * MIB, seed=42))]
    text = ",".join(map(str, lengths)).encode()
    assert hashlib.sha256(text).hexdigest()[:16] == "5a6bab0ecad8f733", lengths


def test_a_map_can_be_closed_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = noise(3 * MIB)
    path.write_bytes(data)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert [data[at : at + size] for at, size in chunking.split(mapped)] == cut(data)


def test_bundle_boundaries() -> None:
    paths = [b"usr/lib/python3/module%d.py" % number for number in range(20_000)]
    boundaries = [path for path in paths if chunking.bundle_boundary(path)]
    assert len(paths) / 128 < len(boundaries) < len(paths) / 32
    assert boundaries[0] == b"usr/lib/python3/module30.py", boundaries[0]
