"""Reading chunks of a generation: those that lie side by side in a pack with one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING

from buildsvc.cache.chunks import decode
from buildsvc.cache.packs import pack_name
from buildsvc.cache.roots import Location

if TYPE_CHECKING:
    from buildsvc.store.contract import Store

RUN_STORED = 8 << 20
"""Bytes that are read with one request, and in memory for it."""
_RUN_LENGTH = 32 << 20  # uncompressed


def runs(locations: Iterable[Location]) -> Iterator[list[Location]]:
    """Group chunks that lie back to back, each chunk once, in the order of packs and offsets."""
    run: list[Location] = []
    stored = length = 0
    for at in sorted(set(locations), key=lambda at: (at.pack, at.offset)):
        if run and (
            (at.pack, at.offset) != (run[-1].pack, run[-1].offset + run[-1].stored)
            or stored + at.stored > RUN_STORED
            or length + at.length > _RUN_LENGTH
        ):
            yield run
            run, stored, length = [], 0, 0
        run.append(at)
        stored += at.stored
        length += at.length
    if run:
        yield run


async def read_run(store: Store, run: list[Location]) -> bytes:
    """The stored bytes of a run. Raises StoreError."""
    stored = sum(at.stored for at in run)
    return await store.get_range(pack_name(run[0].pack), run[0].offset, stored)


def parts(run: list[Location], stored: bytes) -> Iterator[tuple[Location, memoryview]]:
    """A run's chunks with their stored bytes."""
    start = run[0].offset
    view = memoryview(stored)
    for at in run:
        yield at, view[at.offset - start : at.offset - start + at.stored]


async def fetch(
    store: Store, locations: Iterable[Location]
) -> AsyncIterator[tuple[Location, bytes]]:
    """Verified chunks, each once, in the order of packs and offsets.

    Raises CorruptObject, StoreError. Memory stays bounded, whatever there is to read.
    """
    for run in runs(locations):
        stored = await read_run(store, run)
        for at, content in await asyncio.to_thread(_decoded, run, stored):
            yield at, content


def _decoded(run: list[Location], stored: bytes) -> list[tuple[Location, bytes]]:
    return [(at, decode(part, at.length, at.digest)) for at, part in parts(run, stored)]
