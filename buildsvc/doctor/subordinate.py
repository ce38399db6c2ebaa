"""The subordinate ids of a user, as rootlesskit finds them: getsubids, else two files."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from buildsvc.doctor.place import Place

_TIMEOUT = 5.0

Range = tuple[int, int]


@dataclass(frozen=True)
class Ranges:
    """First id and number of each range."""

    uids: tuple[Range, ...]
    gids: tuple[Range, ...]


def ranges(place: Place) -> Ranges:
    """Return the ranges of this user."""
    program = place.program("getsubids")
    if program is not None:
        return Ranges(_asked(program, place), _asked(program, place, "-g"))
    return Ranges(_listed(place, "subuid"), _listed(place, "subgid"))


def _asked(program: str, place: Place, *options: str) -> tuple[Range, ...]:
    """Each line is ``0: user 100000 65536``."""
    try:
        done = subprocess.run(
            [program, *options, place.user],
            capture_output=True, text=True, timeout=_TIMEOUT, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ()
    lines = [line.split() for line in done.stdout.splitlines()]
    return tuple((int(line[-2]), int(line[-1])) for line in lines if len(line) == 4)


def _listed(place: Place, file: str) -> tuple[Range, ...]:
    """Each line is ``user:100000:65536``; a uid may stand for its user."""
    lines = [line.split(":") for line in (place.text(f"/etc/{file}") or "").splitlines()]
    mine = {place.user, str(place.uid)} - {""}
    return tuple(
        (int(line[1]), int(line[2])) for line in lines if len(line) == 3 and line[0] in mine
    )
