"""``buildsvc cache show``: one generation, and what is in it."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from buildsvc.amounts import shown_bytes
from buildsvc.cachecli.command import add_command, add_key, add_number, run_command
from buildsvc.cachecli.items import (
    ITEM_HEADINGS,
    ITEM_SIZES,
    contents_of,
    item_json,
    item_row,
    signature,
)
from buildsvc.cachecli.output import (
    Progress,
    print_json,
    print_line,
    print_table,
    shown,
    shown_time,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from buildsvc.cache.contents import Contents, Item
    from buildsvc.cache.generations import Generation, GenerationLog
    from buildsvc.cache.survey import Logs
    from buildsvc.cachecli.command import Commands
    from buildsvc.errors import CacheError
    from buildsvc.store.contract import Store

_ABOUT = """\
Shows a generation of a key. Without a number it is the newest one that a pod could use; what is
newer and cannot be used is named. Sizes are those of the content, and those of its chunks in
packs, which several may share."""

_AFTER = """\
Examples:
  buildsvc cache show s3://builds/cache app/main
  buildsvc cache show s3://builds/cache acme/protected/app/main/linux-amd64/buildkit-0.33 7"""

_PLURALS = {
    "layer": "layers",
    "active": "active",
    "cache mount": "cache mounts",
    "view": "views",
    "blob": "blobs",
}


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "show", _show, _ABOUT, _AFTER)
    add_key(command)
    add_number(command, "NUMBER", "the generation's; default: the newest that can be used", "?")


def _show(arguments: argparse.Namespace) -> int:
    return run_command(arguments, lambda store, logs: _run(arguments, store, logs))


async def _run(arguments: argparse.Namespace, store: Store, logs: Logs) -> int:
    from buildsvc.cache.lookup import find_generation, find_key, find_root

    progress = Progress()
    log = logs(await find_key(store, arguments.key, progress.show))
    progress.end()
    skipped: list[tuple[int, CacheError]] = []
    generation = await find_generation(
        log, arguments.number, lambda number, problem: skipped.append((number, problem))
    )
    contents, unknown = await contents_of(store, await find_root(log, generation))
    published = (await store.stat(log.key.head_name(generation.origin))).modified
    verified = bool(arguments.verify_key)
    if arguments.json:
        document = _head(log, generation, published, verified=verified)
        document["passed_over"] = [
            {"number": number, "problem": str(problem)} for number, problem in skipped
        ]
        print_json(document | _body(contents, unknown))
        return 0
    for name, value in _lines(log, generation, contents, published, verified=verified):
        print_line(f"{name + ':':<13}{value}")
    for number, problem in skipped:
        print_line(f"passed over: generation {number} cannot be used: {shown(str(problem))}")
    _print_items(contents.items)
    if unknown:
        print_line(f"nothing is described: {shown(unknown)}")
    return 0


def _head(
    log: GenerationLog, generation: Generation, published: float | None, *, verified: bool
) -> dict[str, object]:
    head = generation.head
    return {
        "schema": 1,
        "key": log.key.text,
        "id": log.key.id,
        "number": generation.number,
        "repeats": head.repeats or None,
        "parent": head.parent.hex() or None,
        "digest": generation.digest.hex(),
        "root": head.root.hex(),
        "published_unix": published,
        "created_unix": head.created_unix_ns / 1e9,
        "signed_by": head.signing_key_id or None,
        "verified": verified,
        "collection": head.collection,
        "buildsvc_version": head.buildsvc_version,
    }


def _body(contents: Contents, unknown: str) -> dict[str, object]:
    root = contents.root
    return {
        "buildkit_version": root.buildkit_version,
        "platform": root.platform,
        "cold_build_seconds": root.cold_build_seconds,
        "bytes": contents.size,
        "stored_bytes": contents.stored,
        "chunks": len(contents.table),
        "items": [item_json(item) for item in contents.items],
        "items_not_described": unknown or None,
        "packs": [
            {"digest": pack.digest.hex(), "bytes": pack.size, "used_bytes": pack.used}
            for pack in contents.packs()
        ],
    }


def _lines(
    log: GenerationLog,
    generation: Generation,
    contents: Contents,
    published: float | None,
    *,
    verified: bool,
) -> Iterator[tuple[str, str]]:
    head, root = generation.head, contents.root
    number = str(generation.number)
    if head.repeats:
        number += f", which repeats {head.repeats}"
    yield "key", log.key.text
    yield "generation", number
    parent = f"{generation.number - 1} ({head.parent.hex()[:12]})" if head.parent else "none"
    yield "parent", parent
    yield "published", f"{shown_time(published)} by the store's clock"
    yield "signed by", signature(generation, verified=verified)
    yield (
        "made by",
        f"buildsvc {shown(head.buildsvc_version)}, buildkitd {shown(root.buildkit_version)}",
    )
    yield "platform", shown(root.platform)
    packs = contents.packs()
    all_bytes = sum(pack.size for pack in packs)
    yield "content", f"{shown_bytes(contents.size)} in {len(contents.table)} chunks"
    used = shown_bytes(contents.stored)
    yield "packs", f"{len(packs)} of {shown_bytes(all_bytes)}, of which it needs {used}"


def _print_items(items: Sequence[Item]) -> None:
    counts = Counter[str](item.kind for item in items)
    said = ", ".join(f"{counts[kind]} {name}" for kind, name in _PLURALS.items() if counts[kind])
    print_line(f"{'items:':<13}{said}")
    rows = [item_row(item) for item in sorted(items, key=lambda item: (item.kind, -item.size))]
    print_table([ITEM_HEADINGS, *rows], right=ITEM_SIZES)
