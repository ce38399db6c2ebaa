"""Has a cell measured: makes its network, and starts `perf.comparison.cell` at one end of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from perf.comparison.matrix import Cell
from perf.host import PerfError, environment
from perf.linkspeed import measured
from perf.network import LINKS, network

Record = dict[str, Any]


def measure(
    cell: Cell,
    scratch: Path,
    done: Mapping[str, Sequence[int]],
    found_link: Callable[[dict[str, float]], None],
    save: Callable[[Record], None],
) -> None:
    """Measure what is missing of a cell; every record is handed on at once. Raises PerfError."""
    with network(LINKS[cell.network]) as made:
        found_link(measured(made))
        task = {
            "scenario": cell.scenario,
            "change": cell.change,
            "mounts": cell.mounts,
            "at_once": cell.at_once,
            "medium": cell.medium,
            "peers": cell.peers,
            "rounds": cell.rounds,
            "scratch": str(scratch),
            "services": made.services_from_builders,
            "address": made.address,
            "done": done,
        }
        command = [*made.builders, sys.executable, "-m", "perf.comparison.cell", json.dumps(task)]
        _run(command, save)


def _run(command: Sequence[str], save: Callable[[Record], None]) -> None:
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment(),
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                save(_record(line))
        except BaseException:
            process.terminate()
            # It has daemons to stop, on this network and in this directory.
            process.wait()
            raise
    if process.returncode:
        raise PerfError(f"the comparison ended with {process.returncode}")


def _record(line: str) -> Record:
    try:
        return dict(json.loads(line))
    except ValueError as error:
        raise PerfError(f"the comparison ended in the middle of {line[:80]!r}") from error
