"""Point 6: the caches of a Go build in a cache mount, when one dependency is another version."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from perf.bench.site import Site, site
from perf.build import Built, Job
from perf.change import Line
from perf.host import REPOSITORY, TOOLS, stored_bytes
from perf.project import Project
from tests.campaign.points import Found, Part, Point, Scene

UPLOADED = 0.10
"""Share of the mount's bytes that may be uploaded."""
FASTER = 5.0
"""Times that the RUN step is faster in a fresh pod than without the mount's content."""
#: Seconds from a pod's start to its build: a checkout goes before.
_HEAD_START = 20.0
_WITHIN = 1200.0
#: Newer versions of what buildkitd needs; the last has many packages that need it.
BUMPS = (
    "github.com/gofrs/flock@v0.13.1",
    "github.com/urfave/cli/v3@v3.14.0",
    "github.com/klauspost/compress@v1.20.3",
)
_DOCKERFILE = """\
ARG BASE
FROM ${BASE}
COPY go /usr/local/go
ENV PATH=/usr/local/go/bin:/usr/bin:/bin GOTOOLCHAIN=local CGO_ENABLED=0 \\
    GOFLAGS="-mod=mod -modcacherw -buildvcs=false -trimpath" GOMODCACHE=/cache/mod \\
    GOCACHE=/cache/build SSL_CERT_FILE=/usr/local/share/buildsvc-ca.crt
WORKDIR /src
COPY go.mod go.sum bump ./
RUN --mount=type=cache,target=/cache \\
    (! [ -s bump ] || go get $(cat bump)) && mkdir /tmp/out && go build -o /tmp/out/ tool \\
    && rm -r /tmp/out && echo "mount: $(du -sb /cache | cut -f1) bytes"
"""


@dataclass(frozen=True)
class Step:
    """What the RUN step with the mount took, seconds, and the mount's bytes after it."""

    seconds: float
    mount: int

    @classmethod
    def of(cls, built: Built) -> Step:
        """Find it in a build."""
        (step,) = [step for step in built.progress.instructions if " RUN " in step.name]
        said = re.search(rb"mount: (\d+) bytes", built.progress.output)
        assert said is not None
        return cls(step.seconds, int(said[1]))


class _Program(Project):
    """A Go program of which one dependency can be another version."""

    def bump(self, version: str) -> None:
        """Have it need this one; "" for those that it came with."""
        (self.context / "bump").write_text(version)


def _project(scratch: Path, base: str) -> _Program:
    root = subprocess.run(
        [TOOLS / "go", "env", "GOROOT"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    context = scratch / "context"
    shutil.copytree(root, context / "go", symlinks=True)
    for name in ("go.mod", "go.sum"):
        shutil.copy(REPOSITORY / "tools" / "buildkit" / name, context)
    (context / "Dockerfile").write_text(_DOCKERFILE)
    return _Program("mounts", context, context / "Dockerfile", Line("bump"), {"BASE": base})


def _measure(scene: Scene, bumps: int) -> Found:
    with site("sample", scene.directory) as place:
        project = _project(scene.directory, place.project.arguments["BASE"])
        job = project.job("")
        warm = _on_one_daemon(place, project, job, bumps)
        scene.say(f"a daemon that stayed up: {', '.join(f'{seconds:.1f} s' for seconds in warm)}")
        place.new_store()
        project.bump("")
        without, _ = _publish(place, job, head_start=0.0)
        scene.say(f"without: {without.seconds:.1f} s, {without.mount / 1e6:.0f} MB in the mount")
        figures: dict[str, object] = {
            "most_bytes_in_the_mount": without.mount,
            "most_seconds_without": without.seconds,
        }
        misses = []
        for bump, stayed in zip(BUMPS[:bumps], warm, strict=True):
            project.bump(bump)
            step, uploaded = _publish(place, job, head_start=_HEAD_START)
            scene.say(f"{bump}: {step.seconds:.1f} s, {uploaded / 1e6:.1f} MB uploaded")
            figures[bump] = {
                "seconds": step.seconds,
                "seconds_on_a_daemon_that_stayed_up": stayed,
                "uploaded_MB": uploaded / 1e6,
            }
            if uploaded > UPLOADED * without.mount:
                misses.append(f"{bump}: {uploaded} bytes uploaded, {step.mount} are in the mount")
            if step.seconds * FASTER > without.seconds:
                misses.append(
                    f"{bump}: {step.seconds:.1f} s, {without.seconds:.1f} s without, {stayed:.1f} s"
                    " on a daemon that stayed up"
                )
    return Found(figures, misses)


def _on_one_daemon(place: Site, project: _Program, job: Job, bumps: int) -> list[float]:
    """Seconds of the step for each dependency, on a stock daemon that built all before it."""
    project.bump("")
    with place.stock() as daemon:
        daemon.start(watched=False)
        daemon.wait_answer()
        daemon.build(job)
        found = []
        for bump in BUMPS[:bumps]:
            project.bump(bump)
            found.append(Step.of(daemon.build(job)).seconds)
    return found


def _publish(place: Site, job: Job, *, head_start: float) -> tuple[Step, int]:
    """Build in a fresh pod, and publish; the bytes that the store grew by."""
    before = stored_bytes(place.store)
    with place.pod() as pod:
        pod.start(watched=False)
        pod.wait_answer()
        time.sleep(head_start)
        built = pod.build(job)
        pod.wait_published(built.ended_unix, _WITHIN)
        code = pod.stop(_WITHIN)
        assert code == 0, f"the pod ended with {code}: {pod.log_end()}"
    return Step.of(built), stored_bytes(place.store) - before


def _parts(bumps: int) -> list[Part]:
    return [Part("Go", lambda scene: _measure(scene, bumps))]


POINT = Point(
    number=6,
    name="mounts",
    claim="One dependency of a Go program is bumped, 1 GB of caches in a cache mount: at most"
    f" {UPLOADED:.0%} of it are uploaded, and the RUN step is at least {FASTER:g} times faster in a"
    " fresh pod than without.",
    unit="dependencies",
    full=len(BUMPS),
    quick=1,
    parts=_parts,
    minutes="8 minutes, quick 6",
    room=10 << 30,
)
