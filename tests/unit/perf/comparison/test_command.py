"""A watched command: its output, its costs, its failure."""

from __future__ import annotations

import sys
import time

import pytest

from perf.comparison.peers.command import run
from perf.host import PerfError
from perf.watch import Memory


def test_output_comes_with_the_time_at_which_it_was_said() -> None:
    began = time.time()
    ran = run(["sh", "-c", "echo $WHAT; echo more >&2"], Memory(), {"WHAT": "some"})

    assert [line for _, line in ran.lines] == ["some", "more"]
    assert began <= ran.began_unix <= ran.lines[0][0] <= ran.lines[1][0] <= ran.ended_unix


def test_what_it_costs_includes_what_it_started() -> None:
    memory = Memory()
    work = "import os; list(range(10**6)); end = 0.3\nwhile sum(os.times()[:2]) < end: pass"
    ran = run(["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", work], memory)

    assert ran.cpu_seconds >= 0.3
    assert memory.all > 0


def test_a_failure_tells_the_last_words() -> None:
    with pytest.raises(PerfError, match=r"^sh -c .* failed \(3\):\nthat is wrong$"):
        run(["sh", "-c", "echo that is wrong; exit 3"], Memory())
