"""The command line of what is not a sidecar: the groups ``store``, ``key`` and ``cache``. Other
commands have modules of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc._version import __version__
from buildsvc.cachecli import add_cache_commands
from buildsvc.commandline import EX_IOERR, Parser, exit_code

if TYPE_CHECKING:
    from typing import TextIO

    from buildsvc.store.check import Finding, Report
    from buildsvc.store.probes import Probe

_ABOUT = """\
Image builds in fresh pods at the speed of a warm daemon. The part beside a build is `sidecar`;
this is the build itself, and for those who keep the cache."""

_CODES = """\
exit codes: 0 done, 64 wrong usage, 65 the cache is not what it should be, 66 it has no such key or
generation, 73 a key file cannot be created, 74 the store does not keep what is needed, 75 it is not
available, 77 it refuses, 78 a setting, such as its address or a key file, is wrong"""

_CHECK = """\
Tests a store for everything that builds rely on: what is written is there at once and for all,
creating is exclusive, also for many at one time, ranges and sizes are exact, lists are in order,
deletion works, clocks agree. It writes some hundred MiB and 1300 objects below check/, and removes
them. With the identity of a build pod, which may not delete, they stay."""

_CHECK_AFTER = """\
Credentials come from where the sidecar takes them: docs/operations.md. Example:
  buildsvc store check 's3://builds/cache?endpoint=https://minio.example:9000'"""

_LARGEST = 64
_WORDS = {"kept": "ok", "broken": "BROKEN", "untested": "untested"}

_KEY_NEW = """\
Makes an Ed25519 key pair as openssl would: the private key for the publishers of one trust domain
(sidecar run --signing-key), the public key for all readers (--verify-key). Prints the pair's id."""

_POLICY = """\
Prints the policy document, JSON, that gives an identity the rights it needs in the bucket and no
other: RAM's for oss://…, IAM's for s3://… (MinIO takes it too). Nothing is asked of the store.

  read      a pod that only restores (sidecar run --publish never)
  publish   a pod that publishes, which reads as well
  collect   buildsvc cache
  check     buildsvc store check"""

_POLICY_AFTER = """\
Objects of a key lie under a hash of it, so a policy tells keys apart, but not tenants and trust
domains; signatures do that. Examples:
  buildsvc store policy 's3://builds/cache' --role read
  buildsvc store policy 's3://builds/cache' --role publish \\
    --except-key 'acme/protected/app%2Fmain/linux-amd64/buildkit-0.33'"""

# Those of buildsvc.cache.rights, which takes long to import.
_ROLES = ("read", "publish", "collect", "check")

Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code."""

    def command() -> int:
        arguments = _parser().parse_args(argv)
        chosen: Command = arguments.command
        return chosen(arguments)

    return exit_code("buildsvc", command)


def _parser() -> Parser:
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="buildsvc",
        description=_ABOUT,
        epilog=_CODES,
        allow_abbrev=False,
        formatter_class=form,
    )
    parser.add_argument("--version", action="version", version=f"buildsvc {__version__}")
    groups = parser.add_subparsers(metavar="GROUP", required=True, parser_class=Parser)
    # Their parsers are their own: see buildsvc.__main__.
    groups.add_parser("image-build", help="Build an image on the sidecar beside this step.")
    groups.add_parser("doctor", help="Say whether builds can run here, and what to change.")
    groups.add_parser("webhook", help="Put the sidecar into pods that ask for it.")
    store = groups.add_parser("store", help="The object store that caches are kept in.")
    commands = store.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    check = commands.add_parser(
        "check",
        help="Test a store for everything that builds rely on.",
        description=_CHECK,
        epilog=_CHECK_AFTER,
        allow_abbrev=False,
        formatter_class=form,
    )
    check.set_defaults(command=_check)
    check.add_argument("url", metavar="URL", help="the store, as for sidecar run --store")
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.add_argument(
        "--large",
        type=_mebibytes,
        default=_LARGEST,
        metavar="MIB",
        help=f"size of the largest object, in MiB; default: {_LARGEST}",
    )
    _add_policy(commands)
    key = groups.add_parser("key", help="The keys that generations are signed with.")
    commands = key.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    text = "Make a key pair."
    new = commands.add_parser(
        "new", help=text, description=_KEY_NEW, allow_abbrev=False, formatter_class=form
    )
    new.set_defaults(command=_key_new)
    for name, what in (("signing", "private"), ("verify", "public")):
        new.add_argument(name, type=Path, metavar=name.upper(), help=f"new file: the {what} key")
    text = "Print the kind and the id of the key in each file."
    show = commands.add_parser("show", help=text, description=text, allow_abbrev=False)
    show.set_defaults(command=_key_show)
    show.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a key in PEM")
    add_cache_commands(groups.add_parser("cache", help="The caches in a store."))
    return parser


def _add_policy(commands: argparse._SubParsersAction[Parser]) -> None:
    policy = commands.add_parser(
        "policy",
        help="Print the rights that an identity needs in a bucket.",
        description=_POLICY,
        epilog=_POLICY_AFTER,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    policy.set_defaults(command=_policy)
    policy.add_argument("url", metavar="URL", help="the bucket, as for sidecar run --store")
    policy.add_argument("--role", choices=_ROLES, required=True, help="what the identity does")
    for option, what in (
        ("--key", "may publish under this key only, as `cache ls` prints it; may be repeated"),
        ("--except-key", "must not publish under this key; may be repeated"),
    ):
        policy.add_argument(option, action="append", default=[], metavar="KEY", help=what)


def _mebibytes(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 100_000:
        raise ValueError(text)
    return number


def _check(arguments: argparse.Namespace) -> int:
    from buildsvc.store.address import shown_address
    from buildsvc.store.check import check_store
    from buildsvc.store.open import open_store

    # JSON is for programs: people see how far it is on the other stream.
    shown = _Shown(sys.stderr if arguments.json else sys.stdout)
    with tempfile.TemporaryDirectory(prefix="buildsvc-") as directory:
        report = asyncio.run(
            check_store(
                lambda: open_store(arguments.url),
                Path(directory),
                large=arguments.large << 20,
                progress=shown.progress,
            )
        )
    if arguments.json:
        document = _document(shown_address(arguments.url), report)
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        shown.summary(report)
    if report.error is not None:
        return report.error.exit_code
    return 0 if report.kept else EX_IOERR


def _policy(arguments: argparse.Namespace) -> int:
    from buildsvc.cache.keys import CacheKey
    from buildsvc.cache.rights import Scope, rights_of
    from buildsvc.store.address import parse_address
    from buildsvc.store.policy import policy

    only, never = (
        [CacheKey.from_text(text) for text in texts]
        for texts in (arguments.key, arguments.except_key)
    )
    rights = rights_of(arguments.role, Scope(only, never))
    document = policy(parse_address(arguments.url), rights)
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return 0


def _key_new(arguments: argparse.Namespace) -> int:
    from buildsvc.cache.keyfiles import new_key

    sys.stdout.write(f"{new_key(arguments.signing, arguments.verify)}\n")
    return 0


def _key_show(arguments: argparse.Namespace) -> int:
    from buildsvc.cache.keyfiles import read_key

    for path in arguments.files:
        kind, name = read_key(path)
        sys.stdout.write(f"{name}  {kind:<7}  {path}\n")
    return 0


class _Shown:
    """A line for each probe."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def progress(self, probe: Probe, finding: Finding | None) -> None:
        """Show what is being tried, on a terminal, and what came of it."""
        if finding is None:
            if self._out.isatty():
                self._out.write(f"{'…':<9} {probe.name}")
                self._out.flush()
            return
        start = "\r" if self._out.isatty() else ""
        line = f"{_WORDS[finding.state]:<9} {finding.probe}: {finding.seen}"
        self._out.write(f"{start}{line} ({finding.seconds:.1f} s)\n")
        if finding.state == "broken":
            self._out.write(f"{'':<9}   what would break: {finding.breaks}\n")
            self._out.write(f"{'':<9}   what to do: {finding.advice}\n")
        self._out.flush()

    def summary(self, report: Report) -> None:
        """Say what it comes to."""
        if report.retries:
            self._out.write(f"{report.retries} operations failed in passing and were repeated.\n")
        if report.left_behind:
            count, first = len(report.left_behind), report.left_behind[0]
            self._out.write(f"{count} objects may be left behind, the first is {first}.\n")
        if report.error is not None:
            self._out.write("This store cannot be used: it could not be tested.\n")
        elif report.kept:
            self._out.write("This store keeps what builds rely on.\n")
        else:
            self._out.write("Do not use this store as it is.\n")


def _document(address: str, report: Report) -> dict[str, object]:
    return {
        "schema": 1,
        "store": address,
        "kept": report.kept,
        "findings": [asdict(finding) for finding in report.findings],
        "retries": report.retries,
        "left_behind": report.left_behind,
    }
