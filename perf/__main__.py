"""Compares buildsvc with its peers (perf/README.md).

    python -m perf list
    python -m perf run [--quick] [--axis A]… [--scenario S]… [--peer P]… [--output FILE] [--anew]
    python -m perf report FILE

A FILE that exists is gone on with: cells that it lacks may be measured on another day, all rounds
of a cell belong to one commit and one machine. Exits with 1 when a limit is missed (report), with 2
when a peer failed, with 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from perf import host
from perf.commandline import add_places, new_output, parser, run_rootless
from perf.comparison import book
from perf.comparison.matrix import Cell, chosen, matrix, quick
from perf.comparison.measure import measure
from perf.comparison.names import PEERS
from perf.host import PerfError
from perf.reporting import results
from perf.reporting.markdown import markdown
from perf.reporting.plots import draw
from perf.reporting.verdicts import verdicts

_SCRATCH = "buildsvc-perf"
#: Bytes below the scratch directory: roots of two pods and a daemon, registry and store.
_ROOM = 14 << 30
#: The same where they are gigabytes each, or where nothing of one base serves the next one.
_MUCH_ROOM = 20 << 30
_MEMORY = (
    "this machine gives free memory back to its host, and fresh pods pay for getting it again"
    " (perf/README.md); root can end that"
)


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    options = _arguments(argv)
    if options.command == "report":
        return _report(options)
    cells = _cells(options)
    if options.command == "list":
        return _list(cells)
    return run_rootless(
        "perf",
        ["-m", "perf", *argv],
        lambda: _run(cells, options),
        failed=2,
        interrupted="go on with the same --output",
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    perf = parser("perf", __doc__)
    commands = perf.add_subparsers(dest="command", required=True)
    listing = commands.add_parser(
        "list", help="say what there is to measure, and how long it takes"
    )
    run = commands.add_parser("run", help="measure it")
    axes = sorted({cell.axis for cell in matrix()})
    scenarios = list(dict.fromkeys(cell.scenario for cell in matrix()))
    for each in (listing, run):
        each.add_argument("--quick", action="store_true", help="one scenario, 2 rounds, 15 minutes")
        each.add_argument("--axis", action="append", choices=axes, help="default: all")
        each.add_argument("--scenario", action="append", choices=scenarios, help="default: all")
        each.add_argument("--peer", action="append", choices=PEERS, help="default: all")
        each.add_argument("--rounds", type=int, default=0, help="default: 5, other axes 3")
    run.add_argument("--anew", action="store_true", help="drop what the file has of these cells")
    add_places(run)
    report = commands.add_parser("report", help="print the tables of a file")
    report.add_argument("file", type=Path)
    report.add_argument("--plots", type=Path, metavar="DIR", help="draw them too, into a directory")
    return perf.parse_args(argv)


def _cells(options: argparse.Namespace) -> list[Cell]:
    return chosen(
        quick() if options.quick else matrix(),
        axes=options.axis or (),
        scenarios=options.scenario or (),
        peers=options.peer or (),
        rounds=options.rounds,
    )


def _list(cells: Sequence[Cell]) -> int:
    for cell in cells:
        line = f"{cell.axis:8} {cell.name:44} {len(cell.peers):2} peers, {cell.rounds} rounds"
        print(f"{line}, {_duration(cell.seconds({}))}")
    print(f"together {_duration(sum(cell.seconds({}) for cell in cells))}")
    return 0


def _report(options: argparse.Namespace) -> int:
    try:
        found = results.read(options.file)
        print(markdown(found), end="")
        if options.plots:
            options.plots.mkdir(parents=True, exist_ok=True)
            for path in draw(found, options.plots):
                print(f"perf: drew {path}", file=sys.stderr)
    except (PerfError, OSError) as error:
        print(f"perf: error: {error}", file=sys.stderr)
        return 2
    return 1 if any(verdict.met is False for verdict in verdicts(found)) else 0


def _run(cells: Sequence[Cell], options: argparse.Namespace) -> int:
    kept = book.opened(options.output or new_output("perf"))
    if host.gives_memory_back():
        _say(f"{_MEMORY}: echo 11 >{host.REPORTING}")
    for cell in cells if options.anew else ():
        kept.forget(cell)
    left = sum(cell.seconds(kept.done(cell)) for cell in cells)
    _say(f"{len(cells)} cells, about {_duration(left)}; every round goes to {kept.path}")
    failed = 0
    for number, cell in enumerate(cells, 1):
        what = f"{cell.name} ({number} of {len(cells)})"
        done = kept.done(cell)
        if not cell.seconds(done):
            _say(f"{what}: in the file")
            continue
        _say(f"{what}: about {_duration(cell.seconds(done))}")
        try:
            _measure(cell, kept, options.scratch)
        except PerfError as error:
            failed += 1
            _say(f"{what}: FAILED: {error}")
    _say(f"every round is in {kept.path}")
    return 2 if failed else 0


def _measure(cell: Cell, kept: book.Book, scratch: Path | None) -> None:
    def begun(link: dict[str, float]) -> None:
        kept.begin(cell, link)
        _say(f"{cell.network}: {link['round_trip_ms']:.1f} ms, {link['mbit']:.0f} Mbit/s")

    def save(record: book.Record) -> None:
        kept.save(cell, record)
        _say(_brief(record))

    base = _base(cell, scratch)
    with host.scratch(base, _SCRATCH, alone=True) as directory:
        measure(cell, directory, kept.done(cell), begun, save)


def _base(cell: Cell, scratch: Path | None) -> Path:
    room = _MUCH_ROOM if cell.large else _ROOM
    if scratch is None and cell.medium == "disk":
        base = host.disk()
    else:
        base = host.scratch_base(_SCRATCH, scratch, room)
    if cell.medium == "tmpfs" and host.file_system(base) != "tmpfs":
        raise PerfError(f"{base} is no tmpfs, or memory has no {room >> 30} GiB free")
    if cell.medium == "disk" and host.file_system(base) == "tmpfs":
        raise PerfError(f"{base} is a tmpfs: a cell on the disk needs --scratch or TMPDIR on one")
    return base


def _brief(record: book.Record) -> str:
    if "error" in record:
        return f"  {record['peer']} {record['kind']} {record['round'] + 1}: FAILED"
    seconds = record["seconds"] if record["seconds"] is not None else record["build_seconds"]
    text = f"  {record['peer']} {record['kind']} {record['round'] + 1}: {seconds:.2f} s"
    if record["steps"] is not None:
        text += f", {record['cached']} of {record['steps']} cached"
    return text


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
