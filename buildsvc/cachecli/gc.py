"""``buildsvc cache gc``: deleting what no generation needs that is to be kept."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from buildsvc.amounts import DAY, parse_count, parse_duration, parse_size, shown_bytes
from buildsvc.cachecli.command import add_command, add_signing_key, run_command
from buildsvc.cachecli.output import Progress, print_line
from buildsvc.errors import UsageError

if TYPE_CHECKING:
    from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
    from buildsvc.cache.retention import Plan, Policy
    from buildsvc.cache.survey import Logs
    from buildsvc.cachecli.command import Commands
    from buildsvc.store.contract import Store

_ABOUT = """\
Deletes what no generation needs that is to be kept, while builds go on. Without --dry-run the
plan is made and carried out; what an earlier run has left unfinished is finished first. Needs an
identity that may list and delete; build pods need not delete."""

_AFTER = """\
Where heads are signed, name the verify keys as for the sidecar, and with --signing-key the
collector's own key, which must be among those of every trust domain. Examples:
  buildsvc cache gc s3://builds/cache --dry-run
  buildsvc cache gc s3://builds/cache --keep-last 2 --max-age 30d --max-size 500GB"""


def add(commands: Commands) -> None:
    """Add the command."""
    gc = add_command(commands, "gc", _gc, _ABOUT, _AFTER)
    gc.add_argument("--dry-run", action="store_true", help="only print the plan")
    gc.add_argument(
        "--keep-last", type=parse_count, default=3, metavar="N",
        help="generations of each key to keep; default: 3",
    )  # fmt: skip
    gc.add_argument(
        "--max-age", type=parse_duration, metavar="TIME",
        help="collect generations that were published longer ago, such as 30d, also a key's last",
    )  # fmt: skip
    gc.add_argument(
        "--max-size", type=parse_size, metavar="SIZE",
        help="collect a tenant's oldest generations until the others fit, such as 500GB",
    )  # fmt: skip
    gc.add_argument(
        "--min-age", type=parse_duration, default=DAY, metavar="TIME",
        help="keep what was written or in use less than this ago, whatever else is said: the "
        "longest life of a pod; default: 1d",
    )  # fmt: skip
    gc.add_argument(
        "--settle", type=parse_duration, default=30.0, metavar="TIME",
        help="how far the store's lists may be behind; default: 30s",
    )  # fmt: skip
    add_signing_key(gc)


def _gc(arguments: argparse.Namespace) -> int:
    from buildsvc.cache.retention import Policy

    if arguments.verify_key and not (arguments.signing_key or arguments.dry_run):
        raise UsageError(
            "readers with these verify keys would not take the collector's heads",
            expected="--signing-key beside --verify-key, or --dry-run",
        )
    policy = Policy(
        keep_last=arguments.keep_last,
        max_age=arguments.max_age,
        max_size=arguments.max_size,
        min_age=arguments.min_age,
    )
    return run_command(arguments, lambda store, logs: _collect(arguments, store, logs, policy))


async def _collect(arguments: argparse.Namespace, store: Store, logs: Logs, policy: Policy) -> int:
    from buildsvc.cache.collect import Collector

    progress = Progress()
    collector = Collector(store, logs, policy, settle=arguments.settle, progress=progress.show)
    resumed = [] if arguments.dry_run else await collector.resume()
    plan = await collector.plan()
    deleted = None
    if not arguments.dry_run:
        if plan.packs or plan.roots:
            deleted = await collector.collect(plan)
        await collector.tidy(plan)
    progress.end()
    if arguments.json:
        document = {
            "schema": 1,
            "dry_run": arguments.dry_run,
            "keys": [
                {
                    "key": key.key,
                    "kept": key.kept,
                    "dropped": key.dropped,
                    "oldest_kept": key.oldest_kept,
                }
                for key in plan.keys
            ],
            "planned": {**_counts(plan), "bytes": plan.size, "heads": len(plan.heads)},
            "resumed": [_counts(one) for one in resumed],
            "deleted": _counts(deleted) if deleted is not None else None,
        }
        print_line(json.dumps(document, indent=2))
        return 0
    for key in plan.keys:
        print_line(f"{key.key}: {key.kept} generations stay, {key.dropped} go")
    for one in resumed:
        print_line(f"finished an earlier collection: {_said(one)} deleted")
    print_line(f"{_said(plan)} of {shown_bytes(plan.size)} are garbage")
    if deleted is not None:
        print_line(f"{_said(deleted)} deleted")
    elif not arguments.dry_run and (plan.packs or plan.roots):
        print_line("nothing deleted: another collection has begun")
    return 0


def _counts(objects: Plan | cache_pb2.Condemned) -> dict[str, int]:
    return {"packs": len(objects.packs) // 32, "roots": len(objects.roots) // 32}


def _said(objects: Plan | cache_pb2.Condemned) -> str:
    counts = _counts(objects)
    return f"{counts['packs']} packs and {counts['roots']} roots"
