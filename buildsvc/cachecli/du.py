"""``buildsvc cache du``: what takes how many bytes of a store."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from buildsvc.amounts import shown_bytes
from buildsvc.cachecli.command import add_command, run_command
from buildsvc.cachecli.output import Progress, print_json, print_line, print_table, shown
from buildsvc.errors import NotPublished

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from buildsvc.cache.survey import Logs
    from buildsvc.cache.usage import Usage, Use
    from buildsvc.cachecli.command import Commands
    from buildsvc.store.contract import Store

_ABOUT = """\
Adds up the packs that the generations of each key, trust domain and tenant name. A pack that
several name counts for each of them, and is nobody's own: what is somebody's own becomes garbage
when its generations go. What nothing names is what gc deletes as soon as it is older than its
--min-age; generations beyond its --keep-last come on top. Reads the whole store, whatever is
shown of it."""

_AFTER = """\
exit codes: 0 done, 65 the generations of a key cannot be read: gc deletes nothing until they can.
Examples:
  buildsvc cache du s3://builds/cache
  buildsvc cache du s3://builds/cache --tenant acme --json"""

_EX_DATAERR = 65


def add(commands: Commands) -> None:
    """Add the command."""
    command = add_command(commands, "du", _du, _ABOUT, _AFTER)
    command.add_argument(
        "--tenant", metavar="NAME", help="show this tenant's keys and domains only"
    )


def _du(arguments: argparse.Namespace) -> int:
    return run_command(arguments, lambda store, logs: _run(arguments, store, logs))


async def _run(arguments: argparse.Namespace, store: Store, logs: Logs) -> int:
    from buildsvc.cache.usage import usage

    progress = Progress()
    try:
        found = await usage(store, logs, progress.show)
    finally:
        progress.end()
    if arguments.tenant is not None:
        _restrict(found, arguments.tenant)
    if arguments.json:
        print_json({"schema": 1, "tenant": arguments.tenant, **asdict(found)})
    else:
        _print(found)
    return _EX_DATAERR if any(use.problem for use in found.keys) else 0


def _restrict(found: Usage, tenant: str) -> None:
    """Leaves the uses of that tenant."""
    known = [use.name for use in found.tenants]
    if tenant not in known:
        raise NotPublished(
            f"the store has no key of tenant {tenant!r}",
            found=f"those of {', '.join(known)}" if known else "no key at all",
        )
    for uses in (found.keys, found.domains, found.tenants):
        uses[:] = [use for use in uses if use.tenant == tenant]


def _print(found: Usage) -> None:
    headings = ["", "generations", "packs", "bytes", "own packs", "own bytes"]
    rows = [headings]
    for title, uses in (
        ("keys", found.keys),
        ("trust domains", found.domains),
        ("tenants", found.tenants),
    ):
        rows += [[f"{title}:", "", "", "", "", ""], *_rows(uses)]
    print_table(rows, right=range(1, len(headings)))
    for use in found.keys:
        if use.problem:
            print_line(f"{use.name} cannot be read: {shown(use.problem)}")
    if found.unknown_keys:
        print_line(f"{found.unknown_keys} keys that nobody can name")
    print_line(
        f"the store has {found.packs} packs and {found.roots} roots of {shown_bytes(found.bytes)}; "
        f"nothing names {found.unreferenced_packs} packs and {found.unreferenced_roots} roots of "
        f"{shown_bytes(found.unreferenced_bytes)}"
    )


def _rows(uses: Sequence[Use]) -> Iterator[list[str]]:
    for use in uses:
        yield [
            f"  {use.name}",
            str(use.generations),
            str(use.packs),
            shown_bytes(use.bytes),
            str(use.own_packs),
            shown_bytes(use.own_bytes),
        ]
