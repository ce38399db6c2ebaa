"""Reading chunks: how they are grouped, and what is bounded."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildsvc.cache.chunks import MAX_LENGTH, digest, encode
from buildsvc.cache.fetch import RUN_STORED, fetch, runs
from buildsvc.cache.packs import pack_name
from buildsvc.cache.roots import Location
from buildsvc.errors import CorruptObject
from tests.unit.cache.fakes import MemoryStore

SIZES = st.tuples(st.integers(1, MAX_LENGTH), st.integers(0, 3), st.booleans())


def located(sizes: list[tuple[int, int, bool]]) -> list[Location]:
    """Chunks of packs, some after a gap, some highly compressed."""
    ends = [0] * 4
    found = []
    for number, (length, pack, gap) in enumerate(sizes):
        stored = max(1, length // 50) if number % 2 else length
        ends[pack] += 7 if gap else 0
        at = Location(digest(b"%d" % number), bytes([pack]) * 32, ends[pack], stored, length)
        found.append(at)
        ends[pack] += stored
    return found


@given(sizes=st.lists(SIZES, max_size=40))
def test_runs_have_each_chunk_once_and_are_bounded(sizes: list[tuple[int, int, bool]]) -> None:
    locations = located(sizes)
    found = list(runs([*locations, *locations[:3]]))
    flat = [at for run in found for at in run]
    assert sorted(flat) == sorted(locations)
    for run in found:
        assert sum(at.stored for at in run) <= RUN_STORED
        assert sum(at.length for at in run) <= 32 << 20
        for one, following in pairwise(run):
            assert (one.pack, one.offset + one.stored) == (following.pack, following.offset)


def test_what_lies_side_by_side_is_one_run() -> None:
    assert len(list(runs(located([(100, 0, False), (200, 0, False), (50, 0, False)])))) == 1
    assert len(list(runs(located([(100, 0, False), (200, 0, True), (50, 1, False)])))) == 3


async def test_chunks_are_verified() -> None:
    contents = [b"one" * 50, b"two" * 60]
    stored = [encode(content) for content in contents]
    store = MemoryStore()
    pack = b"p" * 32
    store.objects[pack_name(pack)] = b"".join(stored)
    locations = [
        Location(digest(contents[0]), pack, 0, len(stored[0]), len(contents[0])),
        Location(digest(contents[1]), pack, len(stored[0]), len(stored[1]), len(contents[1])),
    ]
    assert [content async for _, content in fetch(store, reversed(locations))] == contents
    assert store.calls["get"] == 1
    wrong = locations[1]._replace(digest=digest(b"else"))
    with pytest.raises(CorruptObject):
        _ = [content async for _, content in fetch(store, [locations[0], wrong])]
