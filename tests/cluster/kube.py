"""The test cluster as tests see it: objects that are made, awaited, read and removed again."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import yaml

#: Seconds after which something is stuck; nothing here is a measurement.
PATIENCE = 240.0

Object = dict[str, Any]


class KubeError(AssertionError):
    """The cluster did not do what was asked; the text is for people."""


class Namespace:
    """A namespace of the cluster, through ``kubectl``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *argv: str, given: str | None = None, within: float = PATIENCE) -> str:
        """Run ``kubectl`` and return what it printed. Raises KubeError."""
        done = subprocess.run(
            ["kubectl", f"--namespace={self.name}", *argv],
            input=given, capture_output=True, text=True, timeout=within, check=False,
        )  # fmt: skip
        if done.returncode:
            raise KubeError(f"kubectl {' '.join(argv)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, kind: str, name: str) -> Object:
        """Return an object."""
        found: Object = json.loads(self.run("get", kind, name, "--output=json"))
        return found

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """Make objects, or change them."""
        self.run("apply", "--filename=-", given=yaml.safe_dump_all(objects))

    def pods(self, selector: str) -> list[Object]:
        """Return the pods with labels."""
        listed = json.loads(self.run("get", "pods", f"--selector={selector}", "--output=json"))
        return list(listed["items"])

    def log(self, pod: str, container: str, *options: str) -> str:
        """Return what a container has written."""
        return self.run("logs", pod, f"--container={container}", *options)

    def events(self) -> str:
        """Return what the cluster says happened here, newest last."""
        return self.run("get", "events", "--sort-by=.lastTimestamp")

    def wait(
        self,
        pod: str,
        condition: Callable[[Object], bool],
        what: str,
        within: float = PATIENCE,
    ) -> Object:
        """Watch a pod until it is as wanted and return it. Raises KubeError naming ``what``."""
        with self._watched(pod, within) as changes:
            last: Object = {}
            for last in changes:
                if condition(last):
                    return last
        status = json.dumps(last.get("status", {}), indent=1)
        raise KubeError(f"{what}: not within {within:g} s\n{status}\n{self.events()}")

    @contextmanager
    def _watched(self, pod: str, within: float) -> Iterator[Iterator[Object]]:
        """Give the pod as it is now, and after each change."""
        command = ["kubectl", f"--namespace={self.name}", "get", "pod", pod]
        command += ["--watch", "--output=json", f"--request-timeout={within:g}s"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as watching:
            try:
                yield _documents(watching)
            finally:
                watching.terminate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Its pods are killed at once: what a test wanted of their ends it has seen.
        self.run("delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false")
        self.run("delete", "namespace", self.name, "--wait=false")


def _documents(watching: subprocess.Popen[str]) -> Iterator[Object]:
    """Yield JSON documents that follow each other without separators, each as it comes."""
    assert watching.stdout is not None
    lines: list[str] = []
    for line in watching.stdout:
        lines.append(line)
        # kubectl indents: what is closed at the margin is a whole document.
        if line.rstrip("\n") == "}":
            yield json.loads("".join(lines))
            lines.clear()


@contextmanager
def namespace(prefix: str, labels: Mapping[str, str] | None = None) -> Iterator[Namespace]:
    """A new namespace, which is given up afterwards."""
    name = f"{prefix}-{os.getpid()}-{int(time.time() * 1000) % 10**7}"
    one = Namespace(name)
    metadata = {"name": name, "labels": dict(labels or {})}
    one.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    with one:
        yield one


def container_status(pod: Mapping[str, Any], name: str) -> Object:
    """Return the status of a container of any kind; empty before it has one."""
    status = pod.get("status", {})
    every = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    return next((one for one in every if one["name"] == name), {})


def terminated(pod: Mapping[str, Any], name: str) -> Object:
    """Return how a container ended: exitCode, reason, startedAt, finishedAt; empty before."""
    ended: Object = container_status(pod, name).get("state", {}).get("terminated", {})
    return ended


def started(pod: Mapping[str, Any], name: str) -> bool:
    """Whether a container has been started, so that it has a log."""
    state = container_status(pod, name).get("state", {})
    return "running" in state or "terminated" in state


def ended(pod: Mapping[str, Any]) -> bool:
    """Whether all containers of the pod have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def documents(text: str) -> list[Object]:
    """Return the objects of a YAML stream."""
    return [one for one in yaml.safe_load_all(text) if one]


def selected(objects: Sequence[Mapping[str, Any]], kind: str) -> Mapping[str, Any]:
    """Return the only object of a kind."""
    (found,) = [one for one in objects if one["kind"] == kind]
    return found
