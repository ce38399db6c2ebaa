"""One ``buildctl build``: the command, how long it took, and which steps were cached."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from perf.host import PerfError, environment

# BuildKit names a Dockerfile's steps "[stage 2/7] RUN …". It never calls FROM cached.
_STEP = re.compile(r"\[(?!internal)[^\]]*\d+/\d+\] (?!FROM )")


@dataclass
class Step:
    """One vertex of the build."""

    name: str
    cached: bool = False
    error: str = ""
    #: Seconds of each interval by its start: BuildKit may run a vertex in several. Of images that
    #: are built at once, each that needs the step tells of it, by a clock some microseconds off.
    intervals: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """How long it ran; a moment in several intervals counts once."""
        ran = until = 0.0
        for began, took in sorted((_seconds(at), took) for at, took in self.intervals.items()):
            ran += max(began + took - max(began, until), 0.0)
            until = max(until, began + took)
        return 0.0 if self.cached else ran

    @property
    def ended_unix(self) -> float:
        """When it ended, in Unix seconds; 0 where nothing tells."""
        return max((_seconds(began) + took for began, took in self.intervals.items()), default=0.0)


@dataclass
class Progress:
    """What ``--progress=rawjson`` told: steps by digest, and the output of the RUN steps."""

    steps: dict[str, Step] = field(default_factory=dict)
    output: bytes = b""

    @property
    def instructions(self) -> list[Step]:
        """The Dockerfile's steps, without BuildKit's own."""
        return [step for step in self.steps.values() if _STEP.match(step.name)]

    @property
    def cached(self) -> int:
        """How many of the Dockerfile's steps came from the cache."""
        return sum(step.cached for step in self.instructions)


def read_progress(lines: Iterable[str]) -> Progress:
    """Parse the output of ``--progress=rawjson``; lines that are no JSON object are skipped."""
    progress = Progress()
    for line in lines:
        if line.startswith("{"):
            event = json.loads(line)
            for vertex in event.get("vertexes") or ():
                _add_vertex(progress.steps, vertex)
            for text in event.get("logs") or ():
                progress.output += base64.b64decode(text.get("data") or "")
    return progress


def _add_vertex(steps: dict[str, Step], vertex: dict[str, Any]) -> None:
    step = steps.setdefault(vertex["digest"], Step(vertex["name"]))
    step.name = vertex["name"]
    step.cached = step.cached or bool(vertex.get("cached"))
    step.error = vertex.get("error") or step.error
    if vertex.get("started") and vertex.get("completed"):
        began, ended = (_seconds(vertex[name]) for name in ("started", "completed"))
        step.intervals[vertex["started"]] = ended - began


def _seconds(stamp: str) -> float:
    # Nanoseconds and "Z", which datetime reads only in part.
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")


@dataclass(frozen=True)
class Job:
    """What to build. ``image`` is pushed when it is not empty, ``form`` says how it is stored."""

    context: Path
    dockerfile: Path
    image: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    target: str = ""
    options: tuple[str, ...] = ()
    #: Further attributes of BuildKit's image exporter, such as ``compression=zstd``.
    form: str = ""

    def command(self, client: Sequence[str], metadata: Path) -> list[str]:
        """The command line; ``client`` is ``buildctl`` and how it reaches the daemon."""
        argv = [
            *(*client, "build", "--progress=rawjson"),
            *("--frontend=dockerfile.v0", f"--metadata-file={metadata}"),
            f"--local=context={self.context}",
            f"--local=dockerfile={self.dockerfile.parent}",
            f"--opt=filename={self.dockerfile.name}",
        ]
        argv += [f"--opt=build-arg:{name}={value}" for name, value in self.arguments.items()]
        if self.target:
            argv.append(f"--opt=target={self.target}")
        if self.image:
            form = f",{self.form}" if self.form else ""
            argv.append(f"--output=type=image,name={self.image},push=true{form}")
        return [*argv, *self.options]


@dataclass(frozen=True)
class Built:
    """A build that succeeded. Times are seconds; ``ended_unix`` is the client's end."""

    command: list[str]
    seconds: float
    began_unix: float
    ended_unix: float
    progress: Progress
    digest: str

    def shown(self) -> dict[str, object]:
        """For the record."""
        slow = [step for step in self.progress.steps.values() if step.seconds >= 0.1]
        return {
            "seconds": round(self.seconds, 3),
            "ended_unix": self.ended_unix,
            "steps": len(self.progress.instructions),
            "cached": self.progress.cached,
            "slow": {step.name[:60]: round(step.seconds, 2) for step in slow},
            "command": self.command,
        }


def build(job: Job, client: Sequence[str], logs: Path) -> Built:
    """Run a build and wait for it; its progress goes to a new file below ``logs``.

    Raises:
        PerfError: it failed; the text ends with what the failing step said.
    """
    stamp = time.time_ns()
    metadata, log = logs / f"build-{stamp}.metadata", logs / f"build-{stamp}.rawjson"
    command = job.command(client, metadata)
    with log.open("wb") as stream:
        began_unix, began = time.time(), time.monotonic()
        status = _wait(command, stream.fileno())
        seconds, ended_unix = time.monotonic() - began, time.time()
    with log.open(errors="replace") as lines:
        text = lines.readlines()
    progress = read_progress(text)
    if status:
        raise PerfError(_failure(command, status, progress, text, log))
    digest = ""
    if metadata.exists():
        digest = json.loads(metadata.read_text()).get("containerimage.digest", "")
    return Built(command, seconds, began_unix, ended_unix, progress, digest)


def _wait(command: Sequence[str], stream: int) -> int:
    # A session of its own: Ctrl-C is the caller's, who ends the daemon after the client.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
        env=environment(), start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            process.wait()


def _failure(
    command: Sequence[str], status: int, progress: Progress, text: list[str], log: Path
) -> str:
    errors = [f"{step.name}: {step.error}" for step in progress.steps.values() if step.error]
    said = progress.output.decode(errors="replace").splitlines()[-15:]
    own = [line.rstrip() for line in text if not line.startswith("{")][-5:]
    return "\n".join(
        [f"the build exited with {status} ({log})", " ".join(command), *said, *errors, *own]
    )
