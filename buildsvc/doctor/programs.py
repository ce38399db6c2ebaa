"""Checks of the programs that the sidecar runs."""

from __future__ import annotations

import subprocess

from buildsvc.doctor.finding import Finding
from buildsvc.doctor.place import Place
from buildsvc.doctor.trials import Trials

NEEDED = ("buildkitd", "rootlesskit", "runc", "newuidmap", "newgidmap")
"""Without one of these there is no build."""
#: These say their version, with --version.
_VERSIONED = ("buildkitd", "rootlesskit", "runc")
_TIMEOUT = 10.0


def programs(place: Place, _trials: Trials) -> Finding:
    """They are there and run."""
    missing = [name for name in NEEDED if place.program(name) is None]
    if missing:
        advice = (
            "the image buildsvc-sidecar has them; elsewhere install them, or name them with "
            "--tools-dir, --buildkitd, --runc, --rootlesskit"
        )
        return Finding("programs", "fail", f"missing: {', '.join(missing)}", advice)
    said = {name: _version(str(place.program(name))) for name in _VERSIONED}
    broken = [name for name, version in said.items() if version is None]
    if broken:
        advice = "programs for this processor and C library"
        return Finding("programs", "fail", f"cannot be run: {', '.join(broken)}", advice)
    return Finding("programs", "ok", "; ".join(f"{name} {said[name]}" for name in said))


def _version(path: str) -> str | None:
    """Return the number in the first line that a program says; None where it cannot be run."""
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    words = done.stdout.partition("\n")[0].split()
    return next((word for word in words if word.lstrip("v")[:1].isdigit()), "of unknown version")
