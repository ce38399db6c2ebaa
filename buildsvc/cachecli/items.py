"""How the commands print what a generation has in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from buildsvc.amounts import shown_bytes
from buildsvc.cachecli.output import shown

if TYPE_CHECKING:
    from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
    from buildsvc.cache.contents import Contents, Item
    from buildsvc.cache.generations import Generation
    from buildsvc.store.contract import Store

_NAME = 12
_DESCRIPTION = 72


async def contents_of(store: Store, root: cache_pb2.Root) -> tuple[Contents, str]:
    """What the root names, and why its records cannot be read, if so. Raises StoreError."""
    from buildsvc.cache.contents import Contents
    from buildsvc.cache.steps import generation_records
    from buildsvc.errors import CorruptObject, ObjectNotFound, ShortObject, UnreadableObject

    try:
        return Contents(root, await generation_records(store, root)), ""
    except (CorruptObject, ObjectNotFound, ShortObject, UnreadableObject) as error:
        return Contents(root), str(error)


def item_row(item: Item) -> list[str]:
    """Kind, sizes, name and description; the sizes are to stand to the right."""
    name = item.own_name.removeprefix("sha256:")[:_NAME]
    return [
        item.kind,
        shown_bytes(item.size),
        shown_bytes(item.stored),
        shown(name),
        shown(item.description, _DESCRIPTION),
    ]


ITEM_HEADINGS = ["what", "size", "stored", "name", "description"]
ITEM_SIZES = (1, 2)
"""Columns of sizes."""


def item_json(item: Item) -> dict[str, object]:
    """The item as JSON."""
    return {
        "kind": item.kind,
        "name": item.name,
        "parent": item.parent,
        "description": item.description,
        "bytes": item.size,
        "stored_bytes": item.stored,
    }


def signature(generation: Generation, *, verified: bool) -> str:
    """Who has signed it, for people."""
    if not generation.head.signature:
        return "nobody"
    key = shown(generation.head.signing_key_id, 40)
    return f"key {key}" if verified else f"key {key}, as it says: not verified without --verify-key"
