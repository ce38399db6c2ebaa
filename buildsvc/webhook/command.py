"""``buildsvc webhook``: its command line."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from buildsvc.commandline import Parser, add_settings, exit_code
from buildsvc.errors import BuildsvcError, EnvironmentUnfit
from buildsvc.logs import LogOptions, Logs
from buildsvc.webhook.render import rendered
from buildsvc.webhook.settings import SETTINGS, Settings, load_settings
from buildsvc.webhook.template import TemplateFile

_ABOUT = """\
The mutating admission webhook that puts the sidecar into pods with the annotation
buildsvc.io/inject: "true". It never refuses a pod. docs/injection.md has what it does."""

_AFTER = """\
Every setting is a flag (--template) or a variable (BUILDSVC_WEBHOOK_TEMPLATE); a flag wins.

exit codes: 0 done, 64 wrong usage, 65 render: no pod gets the sidecar, 66 render: no such
file, 69 not in a cluster, or an
address is taken, 78 wrong settings or template"""

_RENDER = """\
Prints a manifest as the webhook would change it; changes nothing. Pods inside Deployments, Jobs and
the like are shown with the sidecar too, though a cluster injects when a pod is created."""

_FORM = argparse.RawDescriptionHelpFormatter


class NoManifest(BuildsvcError):
    """The manifest to render cannot be read (EX_NOINPUT)."""

    exit_code = 66


def main(argv: Sequence[str]) -> int:
    """Run the webhook, or one of its commands, and return the exit code."""
    return exit_code("buildsvc webhook", lambda: _webhook(argv))


def _webhook(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="buildsvc webhook", description=_ABOUT, epilog=_AFTER, allow_abbrev=False,
        formatter_class=_FORM,
    )  # fmt: skip
    add_settings(parser, SETTINGS)
    commands = parser.add_subparsers(metavar="[render]", parser_class=Parser)
    render = commands.add_parser(
        "render", help="Print a manifest as it would be changed.", description=_RENDER,
        allow_abbrev=False, formatter_class=_FORM,
    )  # fmt: skip
    render.add_argument("manifest", metavar="FILE", help="a manifest in YAML; - is standard input")
    render.add_argument(
        "--template", default=argparse.SUPPRESS, metavar="FILE", help=SETTINGS["template"].text
    )
    arguments = vars(parser.parse_args(argv))
    manifest = arguments.pop("manifest", None)
    settings = load_settings(arguments, os.environ)
    return _serve(settings) if manifest is None else _render(settings, manifest)


def _serve(settings: Settings) -> int:
    try:
        from buildsvc.webhook.run import run
    except ModuleNotFoundError as error:
        raise EnvironmentUnfit(
            "the webhook's libraries are not installed",
            found=str(error),
            advice="pip install 'buildsvc[service]', or use the image buildsvc-service",
        ) from error
    with Logs(LogOptions(settings.log_format, settings.log_level)):
        return asyncio.run(run(settings))


def _render(settings: Settings, manifest: str) -> int:
    template = TemplateFile(settings.template).current()
    try:
        text = sys.stdin.read() if manifest == "-" else Path(manifest).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NoManifest(f"{manifest} cannot be read", found=str(error)) from error
    sys.stdout.write(rendered(text, template))
    return 0
