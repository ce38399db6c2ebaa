"""Database files of bbolt, written by a few lines that know the format."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

SIZE = 4096
LEAF, BRANCH, META, FREELIST = 2, 1, 4, 16
Entry = tuple[bytes, bytes] | tuple[bytes, bytes, int]


def leaf(number: int, entries: list[Entry], overflow: int = 0) -> bytes:
    """A leaf page; a third member of an entry marks a nested bucket."""
    table, content = b"", b""
    for index, entry in enumerate(entries):
        key, value = entry[:2]
        position = (len(entries) - index) * 16 + len(content)
        table += struct.pack("<IIII", len(entry) == 3, position, len(key), len(value))
        content += key + value
    return struct.pack("<QHHI", number, LEAF, len(entries), overflow) + table + content


def branch(number: int, children: list[tuple[bytes, int]]) -> bytes:
    table, content = b"", b""
    for index, (key, child) in enumerate(children):
        position = (len(children) - index) * 16 + len(content)
        table += struct.pack("<IIQ", position, len(key), child)
        content += key
    return struct.pack("<QHHI", number, BRANCH, len(children), 0) + table + content


def freelist(number: int, free: list[int]) -> bytes:
    return struct.pack(f"<QHHI{len(free)}Q", number, FREELIST, len(free), 0, *free)


def bucket(root: int) -> bytes:
    return struct.pack("<QQ", root, 0)


def inline(entries: list[Entry]) -> bytes:
    return bucket(0) + leaf(0, entries)


def meta(number: int, txid: int, *, root: int, free: int, end: int, size: int = SIZE) -> bytes:
    body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, size, 0, root, 0, free, end, txid)
    checksum = 0xCBF29CE484222325
    for byte in body:
        checksum = (checksum ^ byte) * 0x100000001B3 % 2**64
    return struct.pack("<QHHI", number, META, 0, 0) + body + struct.pack("<Q", checksum)


def pages(*content: bytes, size: int = SIZE) -> bytes:
    return b"".join(page + bytes(-len(page) % size) for page in content)


def database(*content: bytes, root: int = 3, free: int = 2, end: int | None = None) -> bytes:
    """Two meta pages, and from page 2 on what is given."""
    last = 2 + len(content) if end is None else end
    return pages(
        meta(0, 6, root=root, free=free, end=last),
        meta(1, 7, root=root, free=free, end=last),
        *content,
    )


def records(*rows: Mapping[str, str | bool]) -> bytes:
    """A metadata_v2.db with a record for each row: its ``id``, and fields without "cache.", but for
    "cache-dir".
    """
    entries: list[Entry] = []
    for row in sorted(rows, key=lambda row: str(row["id"])):
        fields: list[Entry] = [
            (
                field.encode() if field == "cache-dir" else f"cache.{field}".encode(),
                json.dumps({"value": value}).encode(),
            )
            for field, value in sorted(row.items())
            if field != "id"
        ]
        entries.append((str(row["id"]).encode(), inline(fields), 1))
    return metadata(entries)


def history(*refs: str) -> bytes:
    """A history.db with a record for each build."""
    entries: list[Entry] = [(ref.encode(), b"a record") for ref in sorted(refs)]
    return database(freelist(2, []), leaf(3, [(b"_records", bucket(4), 1)]), leaf(4, entries))


def metadata(entries: list[Entry]) -> bytes:
    """A metadata_v2.db with these entries in its bucket of records."""
    overflow = (len(leaf(4, entries)) - 1) // SIZE
    return database(
        freelist(2, []),
        leaf(3, [(b"_main", bucket(4), 1)]),
        leaf(4, entries, overflow),
        end=5 + overflow,
    )
