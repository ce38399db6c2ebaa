"""Segments: every chunk is found where the segment says, nothing is asked for twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from buildsvc.cache.packs import pack_name
from buildsvc.cache.roots import Location
from sidecar.segments import GAP_BYTES, SEGMENT_BYTES, cut

PACKS = [bytes([n]) * 32 for n in range(3)]


@st.composite
def chunk_lists(draw: st.DrawFn) -> list[Location]:
    """Chunks of some packs, back to back with gaps, some of them used twice, in any order."""
    stored: list[Location] = []
    for pack in PACKS:
        offset = 0
        for size in draw(st.lists(st.integers(1, SEGMENT_BYTES // 2), max_size=12)):
            offset += draw(st.sampled_from([0, 0, 1, GAP_BYTES, GAP_BYTES + 1]))
            stored.append(Location(offset.to_bytes(32, "big"), pack, offset, size, size))
            offset += size
    twice = draw(st.lists(st.sampled_from(stored), max_size=5)) if stored else []
    return draw(st.permutations([*stored, *twice]))


@given(chunk_lists())
def test_each_chunk_lies_where_its_segment_says(locations: list[Location]) -> None:
    seen: list[int] = []
    for plan in cut(enumerate(locations)):
        ends = 0
        for part in plan.ranges:
            assert part.at == ends
            ends += part.length
        assert ends == plan.size
        for chunk in plan.chunks:
            wanted = locations[chunk.chunk]
            part = next(p for p in plan.ranges if p.at <= chunk.offset < p.at + p.length)
            assert part.name == pack_name(wanted.pack)
            assert part.start + chunk.offset - part.at == wanted.offset
            assert chunk.offset + chunk.stored <= part.at + part.length
            assert (chunk.stored, chunk.length) == (wanted.stored, wanted.length)
            seen.append(chunk.chunk)
    assert sorted(seen) == list(range(len(locations)))


@given(chunk_lists())
def test_segments_stay_below_their_size(locations: list[Location]) -> None:
    for plan in cut(enumerate(locations)):
        gaps = GAP_BYTES * len(plan.chunks)
        assert plan.size <= SEGMENT_BYTES + gaps


def test_nothing_gives_no_segment() -> None:
    assert list(cut([])) == []


def test_distant_chunks_of_a_pack_are_separate_ranges() -> None:
    far = 10 * GAP_BYTES
    locations = [
        Location(b"a" * 32, PACKS[0], 0, 10, 10),
        Location(b"b" * 32, PACKS[0], far, 10, 10),
        Location(b"c" * 32, PACKS[0], far + 10 + GAP_BYTES, 10, 10),
    ]
    (plan,) = cut(enumerate(locations))
    assert [(part.start, part.length) for part in plan.ranges] == [
        (0, 10),
        (far, 20 + GAP_BYTES),
    ]
