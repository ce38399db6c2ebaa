"""``buildsvc cache ls``: the keys of a store and their generations."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from buildsvc.amounts import shown_bytes
from buildsvc.cachecli.command import add_command, run_command
from buildsvc.cachecli.output import Progress, print_line

if TYPE_CHECKING:
    from buildsvc.cache.retention import KeyState
    from buildsvc.cache.survey import Logs
    from buildsvc.cachecli.command import Commands
    from buildsvc.store.contract import Store

_ABOUT = "Shows each key's generations and their sizes."

_AFTER = """\
Examples:
  buildsvc cache ls s3://builds/cache
  buildsvc cache ls s3://builds/cache --json"""


def add(commands: Commands) -> None:
    """Add the command."""
    add_command(commands, "ls", _ls, _ABOUT, _AFTER)


def _ls(arguments: argparse.Namespace) -> int:
    return run_command(arguments, lambda store, logs: _list(arguments, store, logs))


async def _list(arguments: argparse.Namespace, store: Store, logs: Logs) -> int:
    from buildsvc.cache.survey import Reader, listed_keys

    progress = Progress()
    reader = Reader(store)
    states = []
    keys = await listed_keys(store)
    for done, listed in enumerate(keys):
        progress.show("reading keys", done, len(keys))
        if (key := await reader.find_key(listed)) is not None:
            states.append(await reader.state(logs(key), listed))
    progress.end()
    states.sort(key=lambda state: state.text)
    if arguments.json:
        rows = [_row(state) for state in states]
        print_line(json.dumps({"schema": 1, "keys": rows}, indent=2))
        return 0
    for state in states:
        print_line(state.text)
        for one in state.generations:
            packs = len(one.packs)
            print_line(
                f"  {one.number:>8}  {shown_bytes(sum(one.packs.values())):>10}  {packs} packs"
            )
    print_line(f"{len(states)} keys, {shown_bytes(_distinct(states))}")
    return 0


def _row(state: KeyState) -> dict[str, object]:
    return {
        "key": state.text,
        "id": state.id,
        "bytes": _distinct([state]),
        "generations": [
            {
                "number": one.number,
                "published_unix": one.modified,
                "root": one.root.hex(),
                "packs": len(one.packs),
                "bytes": sum(one.packs.values()),
            }
            for one in state.generations
        ],
    }


def _distinct(states: Iterable[KeyState]) -> int:
    """Bytes of the packs, each counted once."""
    sizes: dict[bytes, int] = {}
    for state in states:
        for one in state.generations:
            sizes.update(one.packs)
    return sum(sizes.values())
