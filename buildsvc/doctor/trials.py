"""What is really tried, because no file says whether it works: namespaces, mounts, leases."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from buildsvc.doctor.place import Place
from buildsvc.doctor.subordinate import Ranges, ranges

#: Seconds for a program that maps ids, and for all that is tried inside.
_TIMEOUT = 10.0
#: Where the device for a network of RUN steps' own is.
TUN = "/dev/net/tun"
#: Of the trial of mapping them.
NO_IDS = "the user has no subordinate ids"


@dataclass(frozen=True)
class Trials:
    """For each trial what went wrong; "" is success, None that it was not tried.

    ``inside`` has those in a user namespace: ``user`` (making it), ``mounts``, ``overlay``,
    ``network``, ``proc``. ``ids`` is the mapping of subordinate ids into it.
    """

    inside: Mapping[str, str] = field(default_factory=dict)
    ids: str | None = None
    lease: str | None = None
    tun: str = ""

    @property
    def userns(self) -> bool:
        """Whether a user namespace can be made."""
        return self.inside.get("user") == ""


def try_all(place: Place) -> Trials:
    """Try everything in a directory of its own, which is removed again.

    It lies in the sidecar's root directory, or in the nearest one above that exists.
    """
    with ExitStack() as stack:
        try:
            directory = Path(
                stack.enter_context(
                    # What was made as a mapped id may be for that id alone to remove.
                    tempfile.TemporaryDirectory(
                        prefix=".doctor-", dir=existing(place.data), ignore_cleanup_errors=True
                    )
                )
            )
        except OSError:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".doctor-")))
        found = ranges(place)
        inside, ids = _try_inside(place, found, directory)
        return Trials(inside, ids, _try_lease(directory), _try_tun(place))


def existing(path: Path) -> Path:
    """Return the path, or the nearest directory above it that is there."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _try_inside(place: Place, found: Ranges, directory: Path) -> tuple[dict[str, str], str | None]:
    answers: dict[str, str] = {}
    ids: str | None = None
    command = [sys.executable, "-m", "buildsvc.doctor.inside", str(directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            answers |= _said(child.stdout)
            if answers.get("user") == "":
                ids = _map_ids(place, found, child.pid)
                child.stdin.write("alone\n" if ids else "mapped\n")
                child.stdin.flush()
                while said := _said(child.stdout):
                    answers |= said
        except BrokenPipeError:
            # It was killed; what it has said counts.
            pass
        finally:
            child.kill()
    return answers, ids


def _said(out: IO[str]) -> dict[str, str]:
    line = out.readline()
    return dict(json.loads(line)) if line else {}


def _map_ids(place: Place, found: Ranges, pid: int) -> str:
    """Map ids as rootlesskit does: ours is 0 inside, the subordinate ones follow."""
    for program, own, kind in (
        ("newuidmap", place.uid, found.uids),
        ("newgidmap", os.getgid(), found.gids),
    ):
        path = shutil.which(program, path=place.environ.get("PATH"))
        if path is None:
            return f"{program} is not on PATH"
        if not kind:
            return NO_IDS
        first, count = kind[0]
        argv = [path, str(pid), "0", str(own), "1", "1", str(first), str(count)]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{program}: {error}"
        if done.returncode:
            return f"{program}: {done.stderr.strip() or f'exit code {done.returncode}'}"
    return ""


def _try_lease(directory: Path) -> str:
    """Take a write lease, as the agent does for blobs that are not there yet."""
    path = directory / "leased"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()
    return ""


def _try_tun(place: Place) -> str:
    try:
        os.close(os.open(place.files / TUN.lstrip("/"), os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror or str(error)
    return ""
