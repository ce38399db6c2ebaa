"""Measures the sidecar beside a warm daemon and beside BuildKit's own registry cache.

    python -m perf.bench run [--quick] [--scenario NAME]… [--rounds N] [--output FILE]
    python -m perf.bench report FILE

Exits with 1 when a figure misses its limit (perf/bench/limits.py), with 2 when a side failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from perf import host
from perf.bench.report import print_report
from perf.bench.rounds import Measured, Plan, Rounds
from perf.bench.site import site
from perf.commandline import add_places, new_output, parser, run_rootless

#: Free bytes that a scenario needs: roots of several daemons, store and registry.
ROOM = {"sample": 12 << 30, "smallfiles": 4 << 30, "large": 20 << 30}

_SCRATCH = "buildsvc-bench"

QUICK = Plan(rounds=3, cold_rounds=1, registry_cache=True)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    options = _arguments(argv)
    if options.command == "report":
        return print_report(json.loads(options.file.read_text()))
    return run_rootless(
        "bench",
        ["-m", "perf.bench", *argv],
        lambda: _run(options),
        failed=2,
        interrupted="what was measured is in the file",
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    bench = parser("bench", __doc__)
    commands = bench.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, then report")
    run.add_argument(
        "--scenario",
        action="append",
        choices=list(ROOM),
        help="default: all",
    )
    run.add_argument("--rounds", type=int, help="of one-line changes; default: 10")
    run.add_argument("--cold-rounds", type=int, help="of cold builds; default: as --rounds")
    run.add_argument("--head-start", type=float, help="seconds; default: 20")
    run.add_argument("--no-registry-cache", action="store_true", help="leave that peer out")
    run.add_argument("--quick", action="store_true", help="3 rounds, 1 cold, the sample only")
    add_places(run)
    report = commands.add_parser("report", help="print the table of a file")
    report.add_argument("file", type=Path)
    # `python -m perf.bench` alone runs everything.
    return bench.parse_args(argv or ["run"])


def _plan(options: argparse.Namespace) -> Plan:
    base = QUICK if options.quick else Plan()
    rounds = options.rounds or base.rounds
    cold = options.cold_rounds or options.rounds or base.cold_rounds
    return Plan(
        rounds=rounds,
        cold_rounds=base.cold_rounds if options.quick and not options.cold_rounds else cold,
        head_start=base.head_start if options.head_start is None else options.head_start,
        registry_cache=base.registry_cache and not options.no_registry_cache,
    )


def _run(options: argparse.Namespace) -> int:
    plan = _plan(options)
    names: list[str] = options.scenario or (["sample"] if options.quick else list(ROOM))
    output = options.output or new_output("bench")
    book = _Book(output, plan)
    for name in names:
        base = host.scratch_base(_SCRATCH, options.scratch, ROOM[name])
        if host.file_system(base) != "tmpfs":
            print(f"bench: {base} is no tmpfs: a disk's figures spread", file=sys.stderr)
        with (
            host.scratch(base, _SCRATCH, alone=True) as scratch,
            site(name, scratch) as place,
        ):
            Rounds(place, plan, book.save, lambda text: print(text, flush=True)).run()
    print(f"Every round is in {output}")
    return print_report(book.content)


class _Book:
    """The file with everything measured so far, written whole after each record."""

    def __init__(self, path: Path, plan: Plan) -> None:
        self._path = path
        self.content: dict[str, Any] = {
            "unix": time.time(),
            "command": [sys.executable, *sys.orig_argv[1:]],
            "plan": vars(plan),
            "machine": host.machine(),
            "versions": host.versions(),
            "scenarios": {},
        }
        self._write()

    def save(self, measured: Measured) -> None:
        """Take in a scenario's records."""
        self.content["scenarios"][measured.scenario] = measured.records
        self._write()

    def _write(self) -> None:
        host.write_json(self._path, self.content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
