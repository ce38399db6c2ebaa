"""``buildsvc cache …``: looking at the caches in a store, and collecting its garbage."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildsvc.amounts import DAY, parse_count, parse_duration, parse_size, shown_bytes
from buildsvc.commandline import Parser
from buildsvc.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
    from buildsvc.cache.generations import GenerationLog
    from buildsvc.cache.keys import CacheKey
    from buildsvc.cache.retention import KeyState, Policy
    from buildsvc.cache.survey import Logs
    from buildsvc.store.contract import Store

_GC = """\
Deletes what no generation needs that is to be kept, while builds go on. Without --dry-run the
plan is made and carried out; what an earlier run has left unfinished is finished first. Needs an
identity that may list and delete; build pods need not delete."""

_GC_AFTER = """\
Where heads are signed, name the verify keys as for the sidecar, and with --signing-key the
collector's own key, which must be among those of every trust domain. Examples:
  buildsvc cache gc s3://builds/cache --dry-run
  buildsvc cache gc s3://builds/cache --keep-last 2 --max-age 30d --max-size 500GB"""

_LS = "Shows each key's generations and their sizes."


def add_cache_commands(group: Parser) -> None:
    """Add the commands of ``buildsvc cache`` to the group's parser."""
    commands = group.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, after: str) -> Parser:
        command: Parser = commands.add_parser(
            name,
            help=text.partition(".")[0] + ".",
            description=text,
            epilog=after,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=run)
        command.add_argument("url", metavar="URL", help="the store, as for sidecar run --store")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument(
            "--verify-key", action="append", default=[], metavar="TENANT/DOMAIN=PATH",
            help="public key, or directory of them (*.pem), of a trust domain; may be repeated",
        )  # fmt: skip
        return command

    gc = add("gc", _gc, _GC, _GC_AFTER)
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
    gc.add_argument(
        "--signing-key", type=Path, metavar="FILE", help="the collector's private key (PEM)"
    )
    add("ls", _ls, _LS, "")


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
    return _run(arguments, lambda store, logs: _collect(arguments, store, logs, policy))


async def _collect(arguments: argparse.Namespace, store: Store, logs: Logs, policy: Policy) -> int:
    from buildsvc.cache.collect import Collector

    progress = _Progress()
    collector = Collector(store, logs, policy, settle=arguments.settle, progress=progress.show)
    resumed = [] if arguments.dry_run else await collector.resume()
    plan = await collector.plan()
    deleted = None
    if not arguments.dry_run:
        if plan.packs or plan.roots:
            deleted = await collector.collect(plan)
        await collector.tidy()
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
            "planned": {**_counts(plan), "bytes": plan.bytes},
            "resumed": [_counts(one) for one in resumed],
            "deleted": _counts(deleted) if deleted is not None else None,
        }
        _out(json.dumps(document, indent=2))
        return 0
    for key in plan.keys:
        _out(f"{key.key}: {key.kept} generations stay, {key.dropped} go")
    for one in resumed:
        _out(f"finished an earlier collection: {_said(one)} deleted")
    _out(f"{_said(plan)} of {shown_bytes(plan.bytes)} are garbage")
    if deleted is not None:
        _out(f"{_said(deleted)} deleted")
    elif not arguments.dry_run and (plan.packs or plan.roots):
        _out("nothing deleted: another collection has begun")
    return 0


def _ls(arguments: argparse.Namespace) -> int:
    return _run(arguments, lambda store, logs: _list(arguments, store, logs))


async def _list(arguments: argparse.Namespace, store: Store, logs: Logs) -> int:
    from buildsvc.cache.survey import Reader, listed_keys

    progress = _Progress()
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
        _out(json.dumps({"schema": 1, "keys": rows}, indent=2))
        return 0
    for state in states:
        _out(state.text)
        for one in state.generations:
            packs = len(one.packs)
            _out(f"  {one.number:>8}  {shown_bytes(sum(one.packs.values())):>10}  {packs} packs")
    _out(f"{len(states)} keys, {shown_bytes(_distinct(states))}")
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


def _run(
    arguments: argparse.Namespace,
    work: Callable[[Store, Logs], Coroutine[Any, Any, int]],
) -> int:
    from buildsvc.store.address import check_address

    check_address(arguments.url)
    make = _logs(arguments)

    async def run() -> int:
        async with _opened(arguments.url) as store:
            return await work(store, lambda key: make(store, key))

    return asyncio.run(run())


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Store]:
    from buildsvc.store.open import open_store
    from buildsvc.store.retry import RetryingStore

    store = RetryingStore(open_store(url))
    try:
        yield store
    finally:
        await store.close()


def _logs(arguments: argparse.Namespace) -> Callable[[Store, CacheKey], GenerationLog]:
    """How logs are read and continued, by the keys that the arguments name. Blocks."""
    from buildsvc.cache.generations import GenerationLog
    from buildsvc.cache.signing import SigningKey, VerifyKey, VerifyKeys

    path: Path | None = getattr(arguments, "signing_key", None)
    signing = SigningKey.read(path) if path is not None else None
    if not arguments.verify_key:
        return lambda store, key: GenerationLog(store, key, signing=signing)
    keys: dict[tuple[str, str], list[VerifyKey]] = defaultdict(list)
    for text in arguments.verify_key:
        scope, _, where = text.partition("=")
        tenant, _, domain = scope.partition("/")
        if not tenant or not domain or not where:
            raise UsageError("--verify-key", expected="TENANT/DOMAIN=PATH", found=repr(text))
        place = Path(where)
        files = sorted(place.glob("*.pem")) if place.is_dir() else [place]
        keys[tenant, domain] += [VerifyKey.read(file) for file in files]
    verify = VerifyKeys(keys)

    def log(store: Store, key: CacheKey) -> GenerationLog:
        if signing is not None and signing.id not in verify.ids(key.tenant, key.trust_domain):
            where = f"{key.tenant}/{key.trust_domain}"
            raise ConfigError(
                f"readers of {where} would not take the collector's heads",
                expected=f"the collector's verify key, {signing.id}, among those of {where}",
                advice=f"add --verify-key {where}=FILE, and give that key to the domain's readers",
            )
        return GenerationLog(store, key, signing=signing, verify=verify)

    return log


class _Progress:
    """One line on a terminal, which the next one replaces."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, what: str, done: int, total: int) -> None:
        """Say how far it is."""
        if sys.stderr.isatty():
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{what}: {done} of {total}")
            sys.stderr.flush()

    def end(self) -> None:
        """Remove the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _out(line: str) -> None:
    sys.stdout.write(line + "\n")


def _counts(objects: cache_pb2.Plan | cache_pb2.Condemned) -> dict[str, int]:
    return {"packs": len(objects.packs) // 32, "roots": len(objects.roots) // 32}


def _said(objects: cache_pb2.Plan | cache_pb2.Condemned) -> str:
    counts = _counts(objects)
    return f"{counts['packs']} packs and {counts['roots']} roots"
