"""What the commands have in common: their first arguments, and how they open the store."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from buildsvc.commandline import Parser
from buildsvc.errors import ConfigError
from buildsvc.keyplaces import KeyPlace, parse_key_place

if TYPE_CHECKING:
    from buildsvc.cache.generations import GenerationLog
    from buildsvc.cache.keys import CacheKey
    from buildsvc.cache.survey import Logs
    from buildsvc.store.contract import Store

    # What add_subparsers answers has no public name.
    Commands: TypeAlias = argparse._SubParsersAction[Parser]  # noqa: SLF001


def add_command(
    commands: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    text: str,
    after: str = "",
) -> Parser:
    """Add a command that is told the store, and how to print and to verify heads."""
    command = commands.add_parser(
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
        "--verify-key", action="append", type=_key_place, metavar="TENANT/DOMAIN=PATH",
        help="public key, or directory of them (*.pem), of a trust domain; may be repeated",
    )  # fmt: skip
    return command


def add_key(command: Parser) -> None:
    """Add the argument that names a key."""
    command.add_argument(
        "key", metavar="KEY", help="the cache key: as buildsvc cache ls prints it, its id or name"
    )


def add_number(command: Parser, name: str, text: str, nargs: Literal["?"] | None = None) -> None:
    """Add an argument that names a generation."""
    command.add_argument(name.lower(), metavar=name, type=_number, nargs=nargs, help=text)


def _number(text: str) -> int:
    from buildsvc.cache.keys import LAST_NUMBER

    number = int(text)
    if not 0 < number <= LAST_NUMBER:
        raise ValueError(text)
    return number


def add_signing_key(command: Parser) -> None:
    """Add the option of commands that create heads."""
    command.add_argument(
        "--signing-key", type=Path, metavar="FILE", help="the collector's private key (PEM)"
    )


def run_command(
    arguments: argparse.Namespace,
    work: Callable[[Store, Logs], Coroutine[Any, Any, int]],
) -> int:
    """Do the work of a command on its store; what the command exits with."""
    make = _logs(arguments)

    async def run() -> int:
        async with _opened(arguments.url) as store:
            return await work(store, lambda key: make(store, key))

    return asyncio.run(run())


def _key_place(text: str) -> KeyPlace:
    try:
        return parse_key_place(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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
    from buildsvc.cache.signing import SigningKey, VerifyKeys

    path: Path | None = getattr(arguments, "signing_key", None)
    signing = SigningKey.read(path) if path is not None else None
    if not arguments.verify_key:
        return lambda store, key: GenerationLog(store, key, signing=signing)
    verify = VerifyKeys.read(arguments.verify_key)

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
