"""How the commands that measure begin and end: options, user, signals, exit codes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from perf.host import TOOLS, PerfError

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""


def parser(name: str, page: str | None) -> argparse.ArgumentParser:
    """Return a parser for a command of this name; ``page`` is its module's docstring."""
    return argparse.ArgumentParser(prog=name, description=(page or "").split("\n")[0])


def add_places(options: argparse.ArgumentParser) -> None:
    """Add the options that say where to work and where to leave the figures."""
    help_ = "where to work; default: memory if there is room, else TMPDIR"
    options.add_argument("--scratch", type=Path, help=help_)
    help_ = "where to write the JSON; default: a new file in TMPDIR"
    options.add_argument("--output", type=Path, help=help_)


def new_output(name: str) -> Path:
    """Return where a command of this name leaves its figures when nobody says where."""
    file = time.strftime(f"buildsvc-{name}-%Y%m%d-%H%M%S.json")
    return Path(os.environ.get("TMPDIR") or tempfile.gettempdir()) / file


def run_rootless(
    name: str, program: Sequence[str], work: Callable[[], int], *, failed: int, interrupted: str
) -> int:
    """Do the work as the rootless user and return the exit code, also of its failure.

    Started as root, this very program is run again as that user: ``program`` is what follows the
    interpreter, such as ``-m perf.bench``. ``failed`` is the exit code after a PerfError;
    ``interrupted`` tells who ended the work what becomes of it.
    """
    if os.geteuid() == 0:
        wrapper = str(TOOLS / "as-builder")
        os.execv(wrapper, [wrapper, sys.executable, *program])
    interrupt_on_sigterm()
    try:
        return work()
    except PerfError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        return failed
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return INTERRUPTED


def interrupt_on_sigterm() -> None:
    """Have SIGTERM do what Ctrl-C does: everything that was started is stopped."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt
