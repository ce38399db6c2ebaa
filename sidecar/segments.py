"""Cutting an object's chunks into segments: what one download puts into one staged file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc.cache.packs import pack_name
from buildsvc.cache.roots import Location

#: Stored bytes in a segment. Large enough that a request's latency does not matter at
#: 1 Gbit/s, small enough that a demanded snapshot's first worker starts early.
SEGMENT_BYTES = 8 << 20
#: Unwanted bytes between two chunks that are read rather than asked for separately.
GAP_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Range:
    """``length`` bytes at ``start`` of the object ``name`` go to ``at`` in the staged file."""

    name: str
    start: int
    length: int
    at: int


@dataclass(frozen=True, slots=True)
class SegmentPlan:
    """Ranges to download into one file of ``size`` bytes, and the chunks found in it."""

    ranges: tuple[Range, ...]
    chunks: tuple[agent_pb2.StagedChunk, ...]
    size: int

    def staged(self, path: Path) -> agent_pb2.Segment:
        """Describe the downloaded file to the agent."""
        return agent_pb2.Segment(path=str(path), chunks=self.chunks)


def cut(locations: Iterable[tuple[int, Location]]) -> Iterator[SegmentPlan]:
    """Group chunks, given with their index in the object, into segments in pack order.

    A chunk is larger than a segment at most once, alone; nothing is left out and
    nothing is downloaded twice but gaps.
    """
    ordered = sorted(locations, key=lambda item: (item[1].pack, item[1].offset))
    ranges: list[Range] = []
    chunks: list[agent_pb2.StagedChunk] = []
    size = 0
    for index, chunk in ordered:
        name = pack_name(chunk.pack)
        if chunks and size + chunk.stored > SEGMENT_BYTES:
            yield SegmentPlan(tuple(ranges), tuple(chunks), size)
            ranges, chunks, size = [], [], 0
        last = ranges[-1] if ranges else None
        gap = chunk.offset - (last.start + last.length) if last else 0
        if last and last.name == name and -chunk.stored <= gap <= GAP_BYTES:
            # A chunk may come twice (equal contents): the second adds no bytes.
            grown = max(last.length, chunk.offset + chunk.stored - last.start)
            size += grown - last.length
            ranges[-1] = Range(last.name, last.start, grown, last.at)
        else:
            ranges.append(Range(name, chunk.offset, chunk.stored, size))
            size += chunk.stored
        into = ranges[-1]
        chunks.append(
            agent_pb2.StagedChunk(
                chunk=index,
                offset=into.at + chunk.offset - into.start,
                stored=chunk.stored,
                length=chunk.length,
                digest=chunk.digest,
            )
        )
    if chunks:
        yield SegmentPlan(tuple(ranges), tuple(chunks), size)
