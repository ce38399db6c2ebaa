"""How a cell's program ends when it is not to go on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from perf.comparison.measure import Record, _run
from perf.host import PerfError

#: Says something, and takes its time to end, as daemons that have to be stopped do.
_CELL = """\
import signal, sys, time
from pathlib import Path

def end(*_):
    time.sleep(0.5)
    Path(sys.argv[1]).touch()
    sys.exit(130)

signal.signal(signal.SIGTERM, end)
print(sys.argv[2], flush=True)
time.sleep(60)
"""


def _interrupted(_: Record) -> None:
    raise KeyboardInterrupt


def test_who_interrupts_waits_until_everything_is_stopped(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    with pytest.raises(KeyboardInterrupt):
        _run([sys.executable, "-c", _CELL, str(ended), "{}"], _interrupted)
    assert ended.exists()


def test_a_record_that_was_cut_short(tmp_path: Path) -> None:
    with pytest.raises(PerfError, match=r"in the middle of '{.peer"):
        _run([sys.executable, "-c", _CELL, str(tmp_path / "ended"), '{"peer'], _interrupted)
