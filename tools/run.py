"""Shows what it is for: a project built in a pod, changed, and built again in a fresh pod.

    make run [CONTEXT=DIR [DOCKERFILE=FILE] [CHANGE=FILE] [PROGRAM='COMMAND']]

Prints what it does and a table, and writes the figures as JSON to a file that it names.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from perf import host, project
from perf.commandline import add_places, new_output, parser, run_rootless
from perf.twopods import Story, Wanted

_MEGABYTE = 1e6
_SCRATCH = "buildsvc-run"


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit code."""
    options = _arguments(argv)
    return run_rootless(
        "run",
        [__file__, *argv],
        lambda: _run(options),
        failed=1,
        interrupted="everything that was started is stopped",
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    run = parser("run", __doc__)
    add = run.add_argument
    add("--context", type=Path, help="build context of your own project")
    add("--dockerfile", type=Path, help="default: Dockerfile in the context")
    add("--change", default="", help="file of the context that gets a comment; default: a new one")
    add("--program", default="", help="command that proves that your image works")
    add("--head-start", type=float, default=10.0, help="seconds from pod 2's start to its build")
    add_places(run)
    return run.parse_args(argv)


def _run(options: argparse.Namespace) -> int:
    base = host.scratch_base(_SCRATCH, options.scratch)
    free = host.free_bytes(base)
    print(f"Working below {base} ({free / 1e9:.0f} GB free); it is emptied afterwards.")
    if free < host.ROOM:
        print(f"The sample project needs up to {host.ROOM / 1e9:.0f} GB there.", file=sys.stderr)
    wanted_output = options.output or new_output("run")
    # Found out now, not after minutes of work.
    wanted_output.touch()
    with host.scratch(base, _SCRATCH) as scratch:
        result = Story(_wanted(options, scratch), lambda text: print(text, flush=True)).tell()
    result |= {"machine": host.machine(), "versions": host.versions(), "unix": time.time()}
    wanted_output.write_text(json.dumps(result, indent=2) + "\n")
    _show(result)
    print(f"Figures and commands: {wanted_output}")
    if options.context is None:
        print("Your own project: make run CONTEXT=DIR [DOCKERFILE=FILE] [CHANGE=FILE]")
    return 0


def _wanted(options: argparse.Namespace, scratch: Path) -> Wanted:
    if options.context is None:
        if options.dockerfile or options.change or options.program:
            raise host.PerfError("--dockerfile, --change and --program need --context")

        def sample(directory: Path, base_image: str) -> project.Project:
            return project.scenario("sample", directory, {"BASE": base_image})

        return Wanted(sample, scratch, head_start=options.head_start)
    # Copied now: what is wrong with it shows before anything is started.
    mine = project.own(options.context, options.dockerfile, options.change, scratch)
    program = shlex.split(options.program) or None
    return Wanted(
        lambda _directory, _image: mine,
        scratch,
        needs_base=False,
        head_start=options.head_start,
        program=program,
    )


def _show(result: dict[str, Any]) -> None:
    table = Table(title="One changed line, built again")
    for name in ("", "seconds", "steps cached", "MB stored", "MB on demand"):
        table.add_column(name, justify="right" if name else "left")
    table.add_column("MB prefetched", justify="right")
    table.add_column("MB never needed", justify="right")
    head = result["head_start_seconds"]
    for side, name in (
        ("pod1", "pod 1: cold, no cache"),
        ("stock_cold", "stock buildkitd: cold"),
        ("pod2", f"pod 2: fresh, one line changed, {head:g} s head start"),
        ("warm", "stock buildkitd that stayed up: the same change"),
    ):
        figures = result[side]
        sizes = ("stored", "demand", "prefetched", "never_needed")
        table.add_row(
            name,
            f"{figures['seconds']:.1f}",
            f"{figures['cached']} of {figures['steps']}",
            *(_size(figures.get(f"{size}_bytes")) for size in sizes),
        )
    Console(width=max(Console().width, 130)).print(table)
    for pod in ("pod1", "pod2"):
        after = result[pod]["published_after_seconds"]
        print(f"{pod}: the cache was published {after:.1f} s after the build step's end.")
    if "program" in result:
        print(f"The image's program said: {result['program']['output']}")


def _size(size: int | None) -> str:
    return "" if size is None else f"{size / _MEGABYTE:.1f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
