"""Tries what the cache engine claims, for hours if it is to (docs/campaign.md).

    python -m tests.campaign list
    python -m tests.campaign run [--quick] [--point N]… [--steps N] [--output FILE]
    python -m tests.campaign report FILE

A FILE that exists is gone on with. Exits with 1 when a claim is missed, with 2 when something
could not be tried.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf.commandline import add_places, new_output, parser, run_rootless
from tests.campaign import (
    badstore,
    canaries,
    collection,
    flips,
    hostile,
    increments,
    kills,
    mounts,
    publishers,
    throughput,
)
from tests.campaign.book import Book, new_book, open_book
from tests.campaign.points import CampaignError, Point
from tests.campaign.report import markdown
from tests.campaign.runner import Runner
from tests.integration.memory import in_memory

POINTS: tuple[Point, ...] = (
    kills.POINT,
    flips.POINT,
    publishers.POINT,
    collection.POINT,
    badstore.POINT,
    mounts.POINT,
    increments.POINT,
    throughput.POINT,
    hostile.POINT,
    canaries.POINT,
)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    options = _arguments(argv)
    if options.command == "list":
        return _list()
    if options.command == "report":
        print(markdown(json.loads(options.file.read_text()), POINTS), end="")
        return 0
    return run_rootless(
        "campaign",
        ["-m", "tests.campaign", *argv],
        lambda: _run(options),
        failed=2,
        interrupted="go on with the same --output",
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    campaign = parser("campaign", __doc__)
    commands = campaign.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="say what there is to try, and how long it takes")
    run = commands.add_parser("run", help="try it")
    numbers = [point.number for point in POINTS]
    run.add_argument(
        "--point", action="append", type=int, choices=numbers, help="default: all of them"
    )
    run.add_argument("--quick", action="store_true", help="few steps: minutes instead of hours")
    run.add_argument("--steps", type=_positive, help="of each point; default: what is claimed")
    run.add_argument("--seed", help="repeat what another run drew; default: a random one")
    add_places(run)
    report = commands.add_parser("report", help="print a file's summary")
    report.add_argument("file", type=Path)
    return campaign.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one step")
    return number


def _list() -> int:
    for point in POINTS:
        print(f"{point.number:2} {point.name}: {point.full} {point.unit}; {point.minutes}")
        print(f"   {point.claim}")
    return 0


def _run(options: argparse.Namespace) -> int:
    path = options.output or new_output("campaign")
    try:
        return _go_on(_book(path, options), options)
    except CampaignError as error:
        print(f"campaign: {error}", file=sys.stderr)
        return 2


def _book(path: Path, options: argparse.Namespace) -> Book:
    if path.exists():
        return open_book(path)
    return new_book(path, options.seed or secrets.token_hex(8))


def _go_on(book: Book, options: argparse.Namespace) -> int:
    wanted = options.point or [point.number for point in POINTS]
    chosen = [
        (point, options.steps or (point.quick if options.quick else point.full))
        for point in POINTS
        if point.number in wanted
    ]

    try:
        return Runner(book, lambda room: in_memory(room, options.scratch), _say).run(chosen)
    finally:
        summary = book.path.with_suffix(".md")
        summary.write_text(_summary(book.content))
        print(f"{_summary(book.content)}\nEverything is in {book.path}, this in {summary}")


def _summary(content: dict[str, Any]) -> str:
    return markdown(content, POINTS)


def _say(text: str) -> None:
    print(f"campaign: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
