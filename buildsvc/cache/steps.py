"""The records in a generation's databases, read from the store."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import bolt, trees
from buildsvc.cache.fetch import fetch
from buildsvc.cache.records import METADATA, Record, read_records
from buildsvc.cache.roots import ChunkTable
from buildsvc.errors import CannotCreate, CorruptObject

if TYPE_CHECKING:
    from buildsvc.store.contract import Store

_LARGEST = 64 << 20
"""Bytes of a database that are still believed: some 50,000 records."""


async def read_tree(store: Store, table: ChunkTable, ref: cache_pb2.TreeRef) -> trees.ValidTree:
    """A tree that is what its root says of it. Raises CorruptObject, StoreError."""
    found = {at.digest: content async for at, content in fetch(store, table.locate(ref.tree))}
    serialised = b"".join(found[at.digest] for at in table.locate(ref.tree))
    tree = await asyncio.to_thread(trees.parse, serialised)
    table.check_tree(ref, tree)
    return tree


async def generation_records(store: Store, root: cache_pb2.Root) -> list[Record]:
    """The records of a valid Root's databases, none without databases.

    Costs two or three requests and as much room in the directory for temporary files as the
    database takes, some MB.

    Raises:
        CorruptObject: the databases are damaged, or have no such file.
        StoreError: they cannot be read.
        CannotCreate: there is no room.
    """
    if not root.HasField("databases"):
        return []
    table = ChunkTable(root)
    tree = await read_tree(store, table, root.databases)
    wanted = os.fsencode(METADATA)
    entry = next((one for one in tree.entries if one.path == wanted), None)
    if entry is None or not stat.S_ISREG(entry.mode) or entry.size > _LARGEST:
        raise CorruptObject(f"the databases have no {METADATA} that can be one")
    try:
        with tempfile.TemporaryDirectory(prefix="buildsvc-") as directory:
            path = Path(directory) / "records.db"
            await _write(store, table, root.databases, entry, path)
            return await asyncio.to_thread(_read, path)
    except OSError as error:
        raise CannotCreate(
            f"a copy of {METADATA} cannot be written: {error}",
            expected=f"{entry.size} bytes free in {tempfile.gettempdir()}",
            advice="free some, or set TMPDIR to another directory",
        ) from error


async def _write(
    store: Store,
    table: ChunkTable,
    ref: cache_pb2.TreeRef,
    entry: cache_pb2.Entry,
    path: Path,
) -> None:
    """Write an entry's content, with some chunks of it in memory at a time."""
    data = table.locate(ref.data)
    pieces: dict[bytes, list[cache_pb2.Piece]] = {}
    for piece in entry.pieces:
        pieces.setdefault(data[piece.chunk].digest, []).append(piece)
    locations = {data[piece.chunk] for piece in entry.pieces}
    fd = await asyncio.to_thread(os.open, path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.ftruncate(fd, entry.size)
        async for at, content in fetch(store, locations):
            await asyncio.to_thread(_write_pieces, fd, pieces[at.digest], content)
    finally:
        os.close(fd)


def _write_pieces(fd: int, pieces: Iterable[cache_pb2.Piece], content: bytes) -> None:
    for piece in pieces:
        part = content[piece.chunk_offset : piece.chunk_offset + piece.length]
        os.pwrite(fd, part, piece.file_offset)


def _read(path: Path) -> list[Record]:
    bolt.check(path)
    return list(read_records(path))
