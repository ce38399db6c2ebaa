"""``buildsvc cache …``: looking at the caches in a store, and collecting its garbage."""

from __future__ import annotations

from buildsvc.cachecli import diff, du, gc, ls, rm, show, verify
from buildsvc.commandline import Parser


def add_cache_commands(group: Parser) -> None:
    """Add the commands of ``buildsvc cache`` to the group's parser."""
    commands = group.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for module in (ls, show, diff, verify, du, rm, gc):
        module.add(commands)
