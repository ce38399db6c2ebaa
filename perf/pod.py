"""A fresh pod: a sidecar on an empty directory, used as a pipeline uses it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perf.daemon import BoundWatch, Daemon, arguments
from perf.host import PerfError, free_port, own_network, sidecar_environment

_OPERATIONS = re.compile(
    r'^buildsvc_sidecar_store_operations_total\{operation="(\w+)"\} (\S+)$', re.MULTILINE
)

_ENDPOINT_WITHIN = 10.0
#: Publications of one pod that fail before nobody waits for another one.
_FAILURES = 3


@dataclass(frozen=True)
class PodOptions:
    """What the pods of one comparison have in common."""

    store: str
    key: str
    config: Path


class Pod(Daemon):
    """One sidecar. ``base`` must not exist: a fresh pod's disk is empty."""

    def __init__(self, base: Path, options: PodOptions) -> None:
        self._port = free_port()
        self._http = free_port()
        super().__init__(base, f"tcp://127.0.0.1:{self._port}")
        self._options = options
        self._bound: BoundWatch | None = None

    def command(self) -> list[str]:
        """As a pod's specification would have it."""
        flags = {
            "root": self.root,
            "listen": f"127.0.0.1:{self._port}",
            "http-listen": f"127.0.0.1:{self._http}",
            "store": self._options.store,
            "cache-key": self._options.key,
            "buildkitd-config": self._options.config,
            "log-format": "json",
        }
        return [sys.executable, "-m", "sidecar", "run", *arguments(flags)]

    def client(self) -> list[str]:
        """As the sidecar's endpoint file tells, where RUN steps could reach the endpoint."""
        client = super().client()
        if not own_network():
            file = self.root / "endpoint.json"
            until = time.monotonic() + _ENDPOINT_WITHIN
            while not file.exists() and time.monotonic() < until:
                time.sleep(0.01)
            client.append(f"--tlsdir={json.loads(file.read_text())['tlsdir']}")
        return client

    def environment(self) -> Mapping[str, str]:
        """Without the harness' own variables."""
        return sidecar_environment()

    @property
    def root(self) -> Path:
        """The sidecar's root directory."""
        return self.base / "root"

    def start(self, *, watched: bool = True) -> None:
        """Start it and return at once; from now on it is watched when it listens."""
        super().start(watched=watched)
        self._bound = BoundWatch(self.began, self._port)
        self._bound.start()

    @property
    def bound_seconds(self) -> float | None:
        """Seconds from the start of the process to its listening; None when it never did."""
        assert self._bound is not None
        self._bound.join()
        return self._bound.seconds

    @property
    def status_url(self) -> str:
        """Where the sidecar's status pages are."""
        return f"http://127.0.0.1:{self._http}"

    def status(self) -> dict[str, Any]:
        """Return the status that the sidecar serves over HTTP. Raises PerfError."""
        url = f"{self.status_url}/status"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                status: dict[str, Any] = json.load(answer)
                return status
        except (OSError, ValueError) as error:
            self.check()
            raise PerfError(f"{url} does not answer: {error}\n{self.log_end()}") from error

    def store_requests(self) -> dict[str, int]:
        """Return how many requests the store has had, by operation. Raises PerfError."""
        url = f"{self.status_url}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise PerfError(f"{url} does not answer: {error}\n{self.log_end()}") from error
        found = {name: int(float(count)) for name, count in _OPERATIONS.findall(text)}
        if not found:
            raise PerfError(f"{url} has no operations of the store")
        return found

    def wait_ready(self, within: float = 60.0) -> None:
        """Run ``sidecar wait-ready``. Raises PerfError."""
        command = [sys.executable, "-m", "sidecar", "wait-ready", f"--root={self.root}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=sidecar_environment(),
                timeout=within, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise PerfError(f"not ready in {within:g} s\n{self.log_end()}") from None
        if done.returncode:
            raise PerfError(f"wait-ready: {done.stderr}\n{self.log_end()}")

    def wait_status(
        self, condition: Callable[[dict[str, Any]], bool], what: str, within: float = 120.0
    ) -> dict[str, Any]:
        """Wait until the status is as wanted and return it. Raises PerfError naming ``what``."""
        until = time.monotonic() + within
        while not condition(status := self.status()):
            if time.monotonic() > until:
                raise PerfError(f"{what}: not within {within:g} s\n{self.log_end()}")
            time.sleep(0.1)
        return status

    def wait_published(self, after_unix: float, within: float = 120.0) -> dict[str, Any]:
        """Wait for a generation published after a build's end and return the status.

        The sidecar tries again when others have won, as they do in a crowd of pods. Raises
        PerfError when it has failed several times, or takes longer than ``within`` seconds.
        """

        def published(status: dict[str, Any]) -> bool:
            if status["by"].get("checkpoints_skipped", {}).get("failed", 0) >= _FAILURES:
                raise PerfError(f"the publication failed\n{self.log_end()}")
            return publication_end(status) > after_unix

        return self.wait_status(published, "publication of a generation", within)


def publication_end(status: Mapping[str, Any]) -> float:
    """Return when the last publication ended, in Unix seconds; 0 when there was none."""
    ends = [
        span["end"]
        for span in status["timeline"]
        if span["kind"] == "publish" and span["outcome"] == "ok"
    ]
    return float(status["started_unix"]) + max(ends) if ends else 0.0


@dataclass(frozen=True)
class Fetched:
    """Bytes that a pod fetched, by why; ``never_needed`` of those fetched ahead."""

    demand: int
    prefetch: int
    never_needed: int


def fetched(status: Mapping[str, Any], trace: Sequence[str]) -> Fetched:
    """Sum up a status' timeline; ``trace`` is that of the generation that the pod published.

    A trace begins with what its pod used and goes on with what only earlier pods did; how
    many of the fetched objects the pod used, the status counts.
    """
    sizes: dict[str, tuple[str, int]] = {
        span["name"]: (span["why"], span["bytes"])
        for span in status["timeline"]
        if span["kind"] == "fetch" and span["outcome"] == "ok"
    }
    hits = status["objects"]["demand"] + status["objects"]["prefetch"]
    used = set([name for name in trace if name in sizes][:hits])
    demand = ahead = vain = 0
    for name, (why, size) in sizes.items():
        if why == "demand":
            demand += size
        elif name in used:
            ahead += size
        else:
            vain += size
    return Fetched(demand, ahead, vain)
