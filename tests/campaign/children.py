"""Programs that try a share of a part each, one for each processor."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from perf.host import REPOSITORY
from tests.campaign.points import CampaignError, Found, total

#: Seconds between two looks at the programs.
_LOOK = 0.2


def shares(first: int, count: int) -> list[tuple[int, int]]:
    """Cut a range of steps into one for each processor: first step and number of steps."""
    programs = min(count, len(os.sched_getaffinity(0)))
    ends = [first + count * number // programs for number in range(programs + 1)]
    return [(start, end - start) for start, end in pairwise(ends)]


def run_all(
    argvs: Sequence[Sequence[str]], directory: Path, environment: Mapping[str, str], hours: float
) -> Found:
    """Run programs side by side, and add up what they print: a Found as JSON, the last line.

    One that has not ended after so many hours is killed, which is a miss: something hangs.
    Raises CampaignError for one that fails.
    """
    running: list[tuple[subprocess.Popen[bytes], Path, Path]] = []
    end = time.monotonic() + 3600 * hours
    try:
        for number, argv in enumerate(argvs):
            out, err = directory / f"{number}.out", directory / f"{number}.err"
            with out.open("wb") as output, err.open("wb") as errors:
                child = subprocess.Popen(
                    argv,
                    cwd=REPOSITORY, env={**os.environ, **environment},
                    stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                )  # fmt: skip
            running.append((child, out, err))
        found = [_result(*each, lambda: time.monotonic() > end) for each in running]
    finally:
        for child, _, _ in running:
            child.kill()
            child.wait()
    return Found(
        total([each.figures for each in found]), [miss for each in found for miss in each.misses]
    )


def _result(
    child: subprocess.Popen[bytes], out: Path, err: Path, too_late: Callable[[], bool]
) -> Found:
    while child.poll() is None:
        if too_late():
            return Found({}, [f"it hangs: {child.args!r}; {err.read_text()[-2000:]}"])
        time.sleep(_LOOK)
    lines = out.read_text().splitlines()
    if child.returncode or not lines:
        said = err.read_text()[-3000:]
        raise CampaignError(f"{child.args!r} ended with {child.returncode}: {said}")
    return Found(**json.loads(lines[-1]))
