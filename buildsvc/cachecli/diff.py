"""``buildsvc cache diff``: what one generation has and another has not."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from buildsvc.amounts import shown_bytes
from buildsvc.cachecli.command import add_command, add_key, add_number, run_command
from buildsvc.cachecli.items import (
    ITEM_HEADINGS,
    ITEM_SIZES,
    contents_of,
    item_json,
    item_row,
)
from buildsvc.cachecli.output import Progress, print_json, print_line, print_table, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from buildsvc.cache.contents import Contents, PackUse
    from buildsvc.cache.difference import Change, Difference
    from buildsvc.cache.generations import GenerationLog
    from buildsvc.cache.survey import Logs
    from buildsvc.cachecli.command import Commands
    from buildsvc.store.contract import Store

_ABOUT = """\
Shows what generation B has that generation A has not, and the other way round: layers, cache
mounts, blobs and packs, and the bytes that had to be stored anew. A and B are of one key, or B of
the key that --to names, such as a branch beside the key that it began from."""

_AFTER = """\
Examples:
  buildsvc cache diff s3://builds/cache app/main 41 42
  buildsvc cache diff s3://builds/cache app/main 42 1 --to app/feature-x"""


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "diff", _diff, _ABOUT, _AFTER)
    add_key(command)
    add_number(command, "A", "the generation before")
    add_number(command, "B", "the generation after")
    command.add_argument("--to", metavar="KEY", help="the key of B; default: that of A")


def _diff(arguments: argparse.Namespace) -> int:
    return run_command(arguments, lambda store, logs: _run(arguments, store, logs))


async def _run(arguments: argparse.Namespace, store: Store, logs: Logs) -> int:
    from buildsvc.cache.difference import difference
    from buildsvc.cache.lookup import find_key

    progress = Progress()
    first = logs(await find_key(store, arguments.key, progress.show))
    second = first
    if arguments.to is not None:
        second = logs(await find_key(store, arguments.to, progress.show))
    progress.end()
    before, unknown_before = await _contents(store, first, arguments.a)
    after, unknown_after = await _contents(store, second, arguments.b)
    found = difference(before, after)
    sides = [(first, arguments.a, before), (second, arguments.b, after)]
    if arguments.json:
        print_json(
            {
                "schema": 1,
                "from": _side(*sides[0]),
                "to": _side(*sides[1]),
                **_document(found),
                "items_not_described": unknown_before or unknown_after or None,
            }
        )
        return 0
    for sign, (log, number, contents) in zip("-+", sides, strict=True):
        size = shown_bytes(contents.stored)
        print_line(f"{sign * 3} {log.key.text} {number}: {size} stored")
    _print(found)
    if unknown := unknown_before or unknown_after:
        print_line(f"nothing is described: {shown(unknown)}")
    return 0


async def _contents(store: Store, log: GenerationLog, number: int) -> tuple[Contents, str]:
    from buildsvc.cache.lookup import find_generation, find_root

    generation = await find_generation(log, number, lambda _, __: None)
    return await contents_of(store, await find_root(log, generation))


def _side(log: GenerationLog, number: int, contents: Contents) -> dict[str, object]:
    return {
        "key": log.key.text,
        "number": number,
        "bytes": contents.size,
        "stored_bytes": contents.stored,
    }


def _document(found: Difference) -> dict[str, object]:
    return {
        "added": [_change_json(change) for change in found.added],
        "removed": [_change_json(change) for change in found.removed],
        "changed": [_change_json(change) for change in found.changed],
        "added_stored_bytes": found.added_stored,
        "removed_stored_bytes": found.removed_stored,
        "packs_added": [_pack_json(pack) for pack in found.packs_added],
        "packs_removed": [_pack_json(pack) for pack in found.packs_removed],
    }


def _change_json(change: Change) -> dict[str, object]:
    before = {} if change.before is None else {"bytes_before": change.before.size}
    return item_json(change.item) | before | {"own_stored_bytes": change.own}


def _pack_json(pack: PackUse) -> dict[str, object]:
    return {"digest": pack.digest.hex(), "bytes": pack.size}


def _print(found: Difference) -> None:
    rows = list(_rows(found))
    if rows:
        headings = ["", *ITEM_HEADINGS]
        headings[3] = "own"
        print_table([headings, *rows], right=[column + 1 for column in ITEM_SIZES])
    else:
        print_line("the same layers, cache mounts and blobs")
    added, removed = shown_bytes(found.added_stored), shown_bytes(found.removed_stored)
    print_line(f"chunks: {added} stored anew, {removed} needed no longer")
    print_line(f"packs:  {_packs(found.packs_added)} more, {_packs(found.packs_removed)} less")


def _rows(found: Difference) -> Iterator[list[str]]:
    """Of stored bytes, those are shown that the other generation has not."""
    for sign, changes in (("-", found.removed), ("~", found.changed), ("+", found.added)):
        for change in changes:
            kind, size, _, *rest = item_row(change.item)
            yield [sign, kind, size, shown_bytes(change.own), *rest]


def _packs(packs: Sequence[PackUse]) -> str:
    return f"{len(packs)} of {shown_bytes(sum(pack.size for pack in packs))}"
