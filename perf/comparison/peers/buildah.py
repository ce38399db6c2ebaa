"""Buildah in a fresh rootless pod, with its cache of layers in a registry.

As its maintainers set it up for pods
(https://github.com/containers/buildah/blob/main/docs/tutorials/05-openshift-rootless-build.md and
https://github.com/containers/image_build/blob/main/buildah/Containerfile): storage driver overlay,
the kernel's own, which a user namespace may mount on a disk since Linux 5.13 and on a tmpfs since
6.6, on an empty volume; isolation chroot; /var/lib/containers a volume of the pod too, for there
Buildah remembers which layers the registry has, and pushes none of them again. The cache is that
of https://github.com/containers/buildah/blob/main/docs/buildah-build.1.md: ``--layers`` with
``--cache-to`` and ``--cache-from``. A fresh pod's build reads it and does not write it, as
BuildKit's do not.

Stages are built one after the other, the default: with ``--jobs`` those that begin together each
fetch and unpack the base image.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from perf.build import Job
from perf.comparison.peers.command import run
from perf.comparison.peers.contract import Meter, Peer, Record, Span
from perf.comparison.place import Place
from perf.host import program, remove_tree

_STEP = re.compile(r"(?:\[\d+/\d+\] )?(?:STEP \d+/\d+: (?P<step>.*)|(?P<commit>COMMIT) )")
_CACHED = "--> Using cache "
#: Said between the two commands.
_PUSH = "buildah push"

#: A pod's own mounts and processes, which end with it.
_POD = (
    *("setpriv", "--pdeathsig=KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)


class Buildah(Peer):
    """``buildah build`` and ``buildah push``; there is no daemon."""

    def __init__(self, place: Place) -> None:
        super().__init__(place, "buildah")

    def first(self) -> Record:
        """Build, and write the cache."""
        record = self._pod("--cache-to")
        registry = self.place.images.use(self.family)
        repository = self._repository().removeprefix(f"{registry.host}/")
        return {**record, "stored_bytes": registry.stored_bytes(repository)}

    def again(self) -> Record:
        """Build, reading the cache."""
        return self._pod("--cache-from")

    def _repository(self) -> str:
        # Buildah makes a tag for each step.
        return self.cache().rpartition(":")[0]

    def _pod(self, cache: str) -> Record:
        base = self.place.fresh("buildah")
        for name in ("lib", "tmp", "home"):
            (base / name).mkdir(parents=True)
        jobs = self.place.project.jobs(self.image().rpartition(":")[0])
        lines = script(program("buildah"), base, f"{cache}={self._repository()}", jobs)
        command = [*_POD, "sh", "-ec", lines]
        meter = Meter()
        try:
            # Cache mounts and layers on their way are in TMPDIR, and settings in HOME.
            added = {"TMPDIR": f"{base}/tmp", "HOME": f"{base}/home"}
            ran = run(command, meter.memory, added)
        finally:
            remove_tree(base)
        told = read(ran.lines, ran.ended_unix)
        return {
            "seconds": round(ran.ended_unix - meter.began_unix, 3),
            # A head start would be of no use: nothing is up before the build.
            "build_seconds": round(ran.ended_unix - ran.began_unix, 3),
            "steps": told.steps,
            "cached": told.cached,
            "cpu_seconds": round(ran.cpu_seconds, 2),
            "commands": [command],
            "spans": [
                (name, round(began - meter.began_unix, 3), round(ended - meter.began_unix, 3))
                for name, began, ended in told.spans
            ],
            **meter.close(),
        }


def script(buildah: str, base: Path, cache: str, jobs: Sequence[Job]) -> str:
    """What CI's job says, in a pod whose files are below ``base``; one image after the other."""
    argv = [buildah, f"--root={base}/root", f"--runroot={base}/run", "--storage-driver=overlay"]
    lines = [["mount", "--bind", f"{base}/lib", "/var/lib"]]
    for job in jobs:
        build = [*argv, "build", "--isolation=chroot", "--layers", cache, "--tls-verify=false"]
        build += [f"--build-arg={name}={value}" for name, value in job.arguments.items()]
        build += [f"--target={job.target}"] if job.target else []
        build += [f"--file={job.dockerfile}", f"--tag={job.image}", str(job.context)]
        lines += [build, ["echo", _PUSH], [*argv, "push", "--tls-verify=false", job.image]]
    return "\n".join(map(shlex.join, lines))


@dataclass
class Told:
    """What Buildah told: spans in Unix seconds, and its steps but FROM."""

    steps: int = 0
    cached: int = 0
    spans: list[Span] = field(default_factory=list)


def read(lines: Iterable[tuple[float, str]], ended: float) -> Told:
    """Parse the output of a build and a push, each line with the time at which it was told."""
    told = Told()
    begun: list[tuple[float, str]] = []
    for at, line in lines:
        if found := _STEP.match(line):
            name = found["step"] or found["commit"]
            begun.append((at, name[:80]))
            told.steps += bool(found["step"]) and not name.startswith("FROM ")
        elif line == _PUSH:
            begun.append((at, "push"))
        told.cached += line.startswith(_CACHED)
    ends = [at for at, _ in begun[1:]] + [ended]
    told.spans = [(name, at, end) for (at, name), end in zip(begun, ends, strict=True)]
    return told
