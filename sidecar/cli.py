"""The command line: ``sidecar run`` and the commands that talk to a running sidecar."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from buildsvc.commandline import Parser, add_settings, exit_code, report
from buildsvc.errors import BuildsvcError, UsageError
from buildsvc.redact import redacted_text
from buildsvc.values import parse_duration
from sidecar.endpoint import EarlyBind, settle
from sidecar.settings import SETTINGS, Settings
from sidecar.sources import load_settings
from sidecar.versions import version_text

EX_TEMPFAIL = 75

_ABOUT = """\
Runs beside an image build: restores the state of a warm BuildKit daemon from a cache, serves it
to buildctl, and publishes the new state after the build."""

_AFTER = """\
Every setting is a flag (--cache-key), a variable (BUILDSVC_CACHE_KEY) or a key of the YAML file
that --config or BUILDSVC_CONFIG names (cache_key); the first of these counts. Passwords never
belong on the command line."""

_CODES = """\
exit codes: 0 done, 64 wrong usage, 65 unusable cache, 69 the machine or a sidecar is not fit or
not there, 70 a defect, 73 a file cannot be created, 74 and 75 the store or a time-out, 77 no
permission, 78 wrong settings"""


Command = Callable[[argparse.Namespace, "EarlyBind | None"], int]


def refuse(error: BuildsvcError) -> int:
    """Print an error that came before the command could run, and return its exit code."""
    return report("sidecar", error, redacted_text)


def main(argv: Sequence[str], early: EarlyBind | None = None) -> int:
    """Run one command and return its exit code; ``early`` is the socket that is bound already."""

    def run() -> int:
        arguments = _parser().parse_args(argv)
        command: Command = arguments.command
        return command(arguments, early)

    return exit_code("sidecar", run, redacted_text)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="sidecar",
        description=_ABOUT,
        epilog=_CODES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version_text())
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    def add(name: str, run: Command, text: str, epilog: str = "") -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=run)
        sub.add_argument(
            "--config", type=Path, metavar="FILE", help="YAML file with settings (BUILDSVC_CONFIG)"
        )
        return sub

    add_settings(add("run", _run, "Serve builds until SIGTERM.", _AFTER), SETTINGS)
    status = add("status", _status, "Show what the sidecar is doing.")
    _add_root(status)
    form = status.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the status as JSON")
    form.add_argument("--follow", action="store_true", help="print JSON lines as things change")
    wait = add("wait-ready", _wait_ready, "Wait until builds are served.")
    _add_root(wait)
    wait.add_argument("--timeout", default="60s", metavar="DURATION", help="default: 60s")
    _add_root(
        add(
            "checkpoint",
            _checkpoint,
            "Publish the state of the idle daemon now, wait, and print what was published.",
            "Ends with 75 when nothing was published; the printed reason says why.",
        )
    )
    add_settings(
        add("config", _config, "Print the effective settings and where each came from.", _AFTER),
        SETTINGS,
    )
    bundle = add("debug-bundle", _debug_bundle, "Pack logs, status and versions, no secrets.")
    _add_root(bundle)
    bundle.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: a new name")
    agent = commands.add_parser(
        "agent", help="The part inside the user namespace; run starts it.", add_help=False
    )
    agent.set_defaults(command=_agent)
    return parser


def _add_root(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--root",
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="root directory of the sidecar (BUILDSVC_ROOT)",
    )


def _settings(arguments: argparse.Namespace) -> Settings:
    given = vars(arguments)
    flags = {name: given[name] for name in SETTINGS if name in given}
    return load_settings(flags, os.environ, arguments.config)


def _run(arguments: argparse.Namespace, early: EarlyBind | None) -> int:
    settings = _settings(arguments)
    listener = settle(early, settings.address)
    from buildsvc.logs import LogOptions, Logs
    from sidecar.run import run
    from sidecar.status import Status

    options = LogOptions(
        settings.log_format, settings.log_level, settings.root / "logs" / "sidecar.log"
    )
    with listener, Logs(options) as logs:
        return asyncio.run(run(settings, listener, Status(recent_log=logs.recent)))


def _config(arguments: argparse.Namespace, _early: EarlyBind | None) -> int:
    settings = _settings(arguments)
    import yaml

    for name, value in settings.shown().items():
        line = yaml.safe_dump({name: value}, default_flow_style=True, width=10_000).strip("{}\n ")
        sys.stdout.write(f"{line}  # {settings.origin(name)}\n")
    return 0


def _status(arguments: argparse.Namespace, _early: EarlyBind | None) -> int:
    from sidecar import client

    root = _settings(arguments).root
    if arguments.follow:
        asyncio.run(client.follow_status(root, sys.stdout))
    else:
        asyncio.run(client.show_status(root, as_json=arguments.json, out=sys.stdout))
    return 0


def _wait_ready(arguments: argparse.Namespace, _early: EarlyBind | None) -> int:
    from sidecar import client

    try:
        timeout = parse_duration(arguments.timeout)
    except ValueError as error:
        raise UsageError(f"--timeout: {error}") from error
    asyncio.run(client.wait_ready(_settings(arguments).root, timeout))
    return 0


def _checkpoint(arguments: argparse.Namespace, _early: EarlyBind | None) -> int:
    from sidecar import client

    published = asyncio.run(client.checkpoint(_settings(arguments).root, sys.stdout))
    return 0 if published else EX_TEMPFAIL


def _debug_bundle(arguments: argparse.Namespace, _early: EarlyBind | None) -> int:
    from sidecar import client

    asyncio.run(client.debug_bundle(_settings(arguments), arguments.output, sys.stdout))
    return 0


def _agent(arguments: argparse.Namespace, _early: EarlyBind | None) -> int:
    """Only seen with options before the command: sidecar.__main__ takes it first."""
    raise UsageError(f"start the agent as `sidecar agent …`, not with {vars(arguments)}")
