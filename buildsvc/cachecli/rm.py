"""``buildsvc cache rm``: giving up all generations of a key."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildsvc.amounts import shown_bytes
from buildsvc.cachecli.command import add_command, add_key, add_signing_key, run_command
from buildsvc.cachecli.output import Progress, print_json, print_line
from buildsvc.errors import NotPublished, UsageError

if TYPE_CHECKING:
    from buildsvc.cache.generations import Generation, GenerationLog
    from buildsvc.cache.survey import Logs
    from buildsvc.cache.usage import Use
    from buildsvc.cachecli.command import Commands
    from buildsvc.store.contract import Store

_ABOUT = """\
Gives up all generations of a key. Without --yes it only says what would go. With it, one head is
added to the key, by which nothing before it is kept: pods find no generation, or that of a
fallback key. Nothing is deleted: packs that no other key names are garbage then, for gc. A pod
that has restored a generation goes on, and may publish it again; what is published after the plan
was made stays. Needs the right to create objects, not to delete them."""

_AFTER = """\
Where heads are signed, --signing-key and --verify-key are as for gc. Examples:
  buildsvc cache rm s3://builds/cache app/feature-x
  buildsvc cache rm s3://builds/cache app/feature-x --yes"""


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "rm", _rm, _ABOUT, _AFTER)
    add_key(command)
    command.add_argument("--yes", action="store_true", help="do it")
    add_signing_key(command)


def _rm(arguments: argparse.Namespace) -> int:
    if arguments.verify_key and arguments.yes and not arguments.signing_key:
        raise UsageError(
            "readers with these verify keys would not take the head that removes the others",
            expected="--signing-key beside --verify-key",
        )
    return run_command(arguments, lambda store, logs: _run(arguments, store, logs))


@dataclass(frozen=True)
class _Plan:
    """What would go."""

    newest: int
    """Number of the newest head."""
    numbers: list[int]
    """The generations that can be used."""
    use: Use
    is_signed: bool


async def _run(arguments: argparse.Namespace, store: Store, logs: Logs) -> int:
    from buildsvc.cache.fences import drop
    from buildsvc.cache.lookup import find_key
    from buildsvc.cache.survey import Reader

    progress = Progress()
    log = logs(await find_key(store, arguments.key, progress.show))
    try:
        plan = await _plan(store, logs, log, progress)
    finally:
        progress.end()
    made: Generation | None = None
    if arguments.yes:
        if plan.is_signed and not arguments.signing_key:
            raise UsageError(
                f"the generations of {log.key.text} are signed",
                expected="--signing-key: readers would not take a head that is not",
            )
        made = await drop(Reader(store), log, plan.newest + 1)
    if arguments.json:
        print_json(_document(log, plan, made))
    else:
        _print(log, plan, made)
    return 0


async def _plan(store: Store, logs: Logs, log: GenerationLog, progress: Progress) -> _Plan:
    from buildsvc.cache.survey import Reader
    from buildsvc.cache.usage import usage

    newest = await log.newest_number()
    numbers: set[int] = set()
    is_signed = False
    async for generation, _ in Reader(store).usable(log):
        # What was published since is not removed.
        if generation.origin <= newest:
            numbers.add(generation.origin)
        is_signed = is_signed or bool(generation.head.signature)
    if not numbers and not await _is_worth_it(log, newest):
        raise NotPublished(f"{log.key.text} has no generation: there is nothing to remove")
    found = await usage(store, logs, progress.show)
    use = next(use for use in found.keys if use.name == log.key.text)
    return _Plan(newest, sorted(numbers), use, is_signed)


async def _is_worth_it(log: GenerationLog, newest: int) -> bool:
    """Whether the newest head, of a key that nobody can use, says something else than just that."""
    from buildsvc.errors import CacheError

    try:
        return newest > 0 and bool((await log.read(newest)).head.root)
    except CacheError:
        return True


def _document(log: GenerationLog, plan: _Plan, made: Generation | None) -> dict[str, object]:
    use = plan.use
    return {
        "schema": 1,
        "key": log.key.text,
        "removed": made is not None,
        "generations": plan.numbers,
        "head": made.number if made is not None else None,
        "published_meanwhile": (made.head.repeats or None) if made is not None else None,
        "garbage": {"packs": use.own_packs, "bytes": use.own_bytes},
        "shared": {"packs": use.packs - use.own_packs, "bytes": use.bytes - use.own_bytes},
    }


def _print(log: GenerationLog, plan: _Plan, made: Generation | None) -> None:
    use = plan.use
    numbers = ", ".join(map(str, plan.numbers)) or "none that can be used"
    what = "are removed" if made is not None else "would go"
    print_line(f"{log.key.text}: generations {what}: {numbers}")
    others = f"{use.packs - use.own_packs} packs of {shown_bytes(use.bytes - use.own_bytes)}"
    print_line(f"  {others} are other keys' too, and stay")
    print_line(f"  {use.own_packs} packs of {shown_bytes(use.own_bytes)} are only this key's")
    if made is None:
        print_line("nothing is removed without --yes")
        return
    if made.head.repeats:
        print_line(f"generation {made.head.repeats}, published meanwhile, stays")
    print_line(
        "these packs stay until buildsvc cache gc, which deletes them when they are older than its "
        "--min-age and no pod holds a lease"
    )
