"""``buildsvc doctor``: its command line, and how findings are shown."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from buildsvc.commandline import Parser, exit_code
from buildsvc.doctor.examine import KINDS, Examination, examine
from buildsvc.doctor.place import Place
from buildsvc.errors import EnvironmentUnfit

_ABOUT = """\
Says whether the sidecar can run here and images be built, which of the chart's kinds of cluster
this is, and what to change. Run it where the sidecar would run: in a container with its image and
its security context, or on a host as its user. It builds nothing, and removes what it tries."""

_AFTER = """\
Settings are read from the sidecar's variables (BUILDSVC_ROOT, BUILDSVC_STORE, …).

exit codes: 0 builds can run, 64 wrong usage, 69 they cannot

Example, in a pod that has the sidecar:
  kubectl exec POD -c buildsvc -- buildsvc doctor"""

_WIDTH = 100


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    return exit_code("buildsvc doctor", lambda: _doctor(argv))


def _doctor(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="buildsvc doctor", description=_ABOUT, epilog=_AFTER, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", default=_root(),
        help="root directory of the sidecar (BUILDSVC_ROOT); default here: %(default)s",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    found = examine(Place(data=arguments.root.absolute()))
    if arguments.json:
        sys.stdout.write(json.dumps(document(found), indent=2) + "\n")
    else:
        sys.stdout.write(shown(found))
    return 0 if found.builds else EnvironmentUnfit.exit_code


def _root() -> Path:
    """Return the sidecar's default; a user without a home has none, and then any will do."""
    if named := os.environ.get("BUILDSVC_ROOT"):
        return Path(named)
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(base) / "buildsvc"


def document(found: Examination) -> dict[str, object]:
    """Return the findings for programs."""
    return {
        "schema": 1,
        "place": "pod" if found.pod else "host",
        "kinds": list(found.kinds),
        "builds": found.builds,
        "findings": [asdict(finding) for finding in found.findings],
    }


def shown(found: Examination) -> str:
    """Return the findings for people: a line each, and what to change below it."""
    lines: list[str] = []
    for finding in found.findings:
        lines += _wrapped(f"{finding.state:<4}", f"{finding.check}: {finding.seen}")
        if finding.advice:
            lines += _wrapped("  ->", finding.advice)
    lines.append("")
    if not found.builds:
        failed = sum(finding.state == "fail" for finding in found.findings)
        lines.append(f"No build can run here: {failed} of {len(found.findings)} checks failed.")
    elif found.kinds:
        best, *others = found.kinds
        lines.append(f"Builds can run here. cluster.kind: {best} ({KINDS[best]}).")
        if others:
            lines.append(f"It also fits {', '.join(others)}.")
    return "\n".join(lines) + "\n"


def _wrapped(mark: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"{mark} ", subsequent_indent=" " * 7,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
