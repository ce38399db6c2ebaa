"""``buildsvc cache verify``: whether all that a generation needs is there."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from buildsvc.amounts import shown_bytes
from buildsvc.cachecli.command import add_command, add_key, add_number, run_command
from buildsvc.cachecli.items import ITEM_SIZES, item_json, item_row
from buildsvc.cachecli.output import Progress, print_json, print_line, print_table, shown

if TYPE_CHECKING:
    from buildsvc.cache.generations import Generation, GenerationLog
    from buildsvc.cache.survey import Logs
    from buildsvc.cache.verify import Verified
    from buildsvc.cachecli.command import Commands
    from buildsvc.store.contract import Store

_ABOUT = """\
Looks whether each object that a generation needs is in the store, with the right size. With
--deep every chunk is read and compared with its digest, and every tree and the daemon's records
are parsed, in bounded memory: that reads as many bytes as a pod that restores all of it. Where
something is wrong it says which layers, cache mounts and blobs are lost by it."""

_AFTER = """\
exit codes: 0 all is as it should be, 65 something is wrong, 66 there is no such generation.
Examples:
  buildsvc cache verify s3://builds/cache app/main
  buildsvc cache verify s3://builds/cache app/main 42 --deep --json"""

_EX_DATAERR = 65


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "verify", _verify, _ABOUT, _AFTER)
    add_key(command)
    add_number(command, "NUMBER", "the generation's; default: the newest that can be used", "?")
    command.add_argument("--deep", action="store_true", help="read and compare every chunk")


def _verify(arguments: argparse.Namespace) -> int:
    return run_command(arguments, lambda store, logs: _run(arguments, store, logs))


async def _run(arguments: argparse.Namespace, store: Store, logs: Logs) -> int:
    from buildsvc.cache.lookup import find_generation, find_key
    from buildsvc.cache.verify import Problem, Verified, verify
    from buildsvc.errors import CacheError

    progress = Progress()
    log = logs(await find_key(store, arguments.key, progress.show))
    heads: dict[int, CacheError] = {}
    generation: Generation | None = None
    found = Verified()
    try:
        generation = await find_generation(log, arguments.number, heads.__setitem__)
        found = await verify(store, log, generation, deep=arguments.deep, progress=progress.show)
    except CacheError as problem:
        # None can be used, or not the one that was asked for.
        if generation is not None:
            raise
        if arguments.number is not None:
            heads[arguments.number] = problem
        found.usable = False
    finally:
        progress.end()
    found.problems[:0] = [
        Problem("head", log.key.head_name(number), str(heads[number])) for number in heads
    ]
    if arguments.json:
        print_json(_document(log, generation, found, deep=arguments.deep))
    else:
        _print(log, generation, found)
    return _EX_DATAERR if found.problems else 0


def _document(
    log: GenerationLog, generation: Generation | None, found: Verified, *, deep: bool
) -> dict[str, object]:
    return {
        "schema": 1,
        "key": log.key.text,
        "number": generation.number if generation is not None else None,
        "deep": deep,
        "usable": found.usable,
        "packs": found.packs,
        "bytes": found.bytes,
        "chunks_read": found.chunks,
        "answers_wrong_once": found.reread,
        "problems": [
            {
                "kind": problem.kind,
                "name": problem.name,
                "what": problem.what,
                "lost": [item_json(item) for item in problem.lost],
            }
            for problem in found.problems
        ],
    }


def _print(log: GenerationLog, generation: Generation | None, found: Verified) -> None:
    for problem in found.problems:
        print_line(f"{shown(problem.name)}: {shown(problem.what)}")
        if problem.lost:
            print_line("  what is lost by it:")
            print_table([item_row(item) for item in problem.lost], right=ITEM_SIZES)
    if found.reread:
        print_line(
            f"{found.reread} answers were wrong once and right when asked for again: look for what "
            "corrupts data between this machine and the store"
        )
    if generation is None:
        print_line(f"{log.key.text}: no generation can be used")
        return
    seen = f"{found.packs} packs of {shown_bytes(found.bytes)}"
    if found.chunks:
        seen += f", {found.chunks} chunks read"
    print_line(f"{log.key.text} generation {generation.number}: {_verdict(found)} ({seen})")


def _verdict(found: Verified) -> str:
    if not found.problems:
        return "all is as it should be"
    if not found.usable:
        return "it cannot be used; pods start from an older one, or cold"
    if all(problem.kind == "head" for problem in found.problems):
        return "all is as it should be, but newer heads cannot be used"
    return "damaged; pods build again what is lost, and store it"
