"""Pipelines of three steps in one pod, checkout, compile, image-build, beside the sidecar."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.request import urlopen

from perf.build import Step, read_progress
from tests.cluster.kube import PATIENCE, Namespace, Object, ended, selected, started, terminated
from tests.cluster.machinery import Registry, Store, logs_directory, render

SIDECAR, CHECKOUT, COMPILE, BUILD = "buildsvc", "checkout", "compile", "image-build"
#: Seconds of a pod's grace period, in which it has to publish.
GRACE = 90


@dataclass(frozen=True)
class Project:
    """What is built. ``compile_command`` runs between checkout and build, in the workspace."""

    files: Mapping[str, str]
    compile_command: Sequence[str] = ("sh", "-c", "sed s/NAME/world/ greeting.in >greeting")


@dataclass(frozen=True)
class Outcome:
    """A pod that has ended, and what its containers said."""

    pod: Object
    logs: Mapping[str, str]

    @property
    def code(self) -> int:
        """The exit code of the image-build step."""
        return int(terminated(self.pod, BUILD)["exitCode"])

    @property
    def instructions(self) -> list[Step]:
        """The Dockerfile's steps, as BuildKit told them."""
        return read_progress(self.logs[BUILD].splitlines()).instructions

    @property
    def ran(self) -> list[str]:
        """Names of the Dockerfile's steps that were not cached."""
        return [step.name for step in self.instructions if not step.cached]

    @property
    def output(self) -> str:
        """What RUN steps wrote."""
        return read_progress(self.logs[BUILD].splitlines()).output.decode(errors="replace")

    @property
    def said(self) -> str:
        """What the step said itself."""
        lines = self.logs[BUILD].splitlines()
        return "\n".join(line for line in lines if line.startswith("image-build:"))

    def seconds(self, container: str) -> float:
        """Return how long a container ran; the cluster knows whole seconds."""
        times = terminated(self.pod, container)
        return moment(times["finishedAt"]) - moment(times["startedAt"])

    @property
    def published_within(self) -> float:
        """Seconds from the end of the last step to that of the sidecar."""
        last = terminated(self.pod, BUILD)["finishedAt"]
        return moment(terminated(self.pod, SIDECAR)["finishedAt"]) - moment(last)


def moment(text: str) -> float:
    """Return Unix seconds of a time as Kubernetes writes it."""
    return datetime.fromisoformat(text).timestamp()


@dataclass
class Builds:
    """Runs pipelines in a namespace, as the chart's example does."""

    namespace: Namespace
    registry: Registry
    store: Store
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    _count: int = 0

    def start(
        self,
        project: Project,
        *,
        env: Mapping[str, str] | None = None,
        change: Callable[[Object], None] | None = None,
        **sidecar: Any,
    ) -> str:
        """Start a pod with an image of its own to push; return its name.

        ``env`` are variables of the step, ``sidecar`` values of the chart, and ``change`` is
        called with the pod's specification.
        """
        self._count += 1
        name = f"build-{self._count}"
        objects = render(self.namespace.name, self._values(name, project, env or {}, sidecar))
        if change is not None:
            change(selected(objects, "Job")["spec"]["template"]["spec"])
        self.namespace.apply(self.store.secret(), *objects)
        selector = f"job-name={name}"
        self.namespace.run("wait", "--for=create", "pod", f"--selector={selector}", "--timeout=60s")
        (pod,) = self.namespace.pods(selector)
        return str(pod["metadata"]["name"])

    def _values(
        self, name: str, project: Project, env: Mapping[str, str], sidecar: Mapping[str, Any]
    ) -> Object:
        return {
            "image": {"registry": self.registry.host, "tag": self.registry.tag},
            "cluster": {"kind": self.kind},
            "store": {"url": self.store.url},
            "registry": {"host": self.registry.host, "insecure": True},
            "sidecar": {
                "rootSize": "4Gi",
                "terminationGracePeriodSeconds": GRACE,
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
                **sidecar,
            },
            "webhook": {"enabled": False},
            "examples": {
                "enabled": True,
                "name": name,
                "repository": f"{self.namespace.name}/app",
                "version": name,
                "files": dict(project.files),
                "compileCommand": list(project.compile_command),
                "imageBuildEnv": {"BUILDSVC_IMAGE_PROGRESS": "rawjson", **env},
            },
            **self.values,
        }

    def outcome(self, pod: str) -> Outcome:
        """Wait for the pod's end and return it with its logs, which are kept in files too."""
        last = self.namespace.wait(pod, ended, f"end of the pod {pod}")
        return Outcome(last, self.logs(pod))

    def logs(self, pod: str) -> Mapping[str, str]:
        """Return what the containers have said so far."""
        found = {}
        for container in (SIDECAR, CHECKOUT, COMPILE, BUILD):
            found[container] = self.namespace.log(pod, container)
            file = logs_directory() / f"{self.namespace.name}-{pod}-{container}.log"
            file.write_text(found[container])
        return found

    def remove(self, pod: str) -> None:
        """Delete the pod's Job, which would make another one, and with it the pod; do not wait."""
        self.namespace.run("delete", "job", self._job(pod), "--wait=false")

    def kill(self, pod: str) -> None:
        """End the pod without a grace period, as a node's end does."""
        self.namespace.run("delete", "job", self._job(pod), "--cascade=orphan")
        self.namespace.run("delete", "pod", pod, "--grace-period=0", "--force")

    def _job(self, pod: str) -> str:
        return str(self.namespace.get("pod", pod)["metadata"]["labels"]["job-name"])

    def status(self, pod: str) -> Object:
        """Return what the sidecar says of itself, as its page does; empty while it says nothing."""
        address = self.namespace.get("pod", pod)["status"].get("podIP")
        if address is None:
            return {}
        try:
            with urlopen(f"http://{address}:8378/status", timeout=5) as answer:
                status: Object = json.load(answer)
                return status
        except OSError:
            return {}

    def wait_status(self, pod: str, condition: Callable[[Object], bool], what: str) -> Object:
        """Wait until the sidecar's status is as wanted and return it."""
        end = time.monotonic() + PATIENCE
        while not ((status := self.status(pod)) and condition(status)):
            assert time.monotonic() < end, f"{what}: not within {PATIENCE:g} s: {status}"
            time.sleep(0.05)  # The page has no event that an HTTP client could wait for.
        return status

    def wait_said(self, pod: str, container: str, word: str) -> None:
        """Wait until a container has written the word."""
        self.namespace.wait(
            pod,
            lambda now: started(now, container),
            f"start of {container}",
        )
        end = time.monotonic() + PATIENCE
        while word not in self.namespace.log(pod, container):
            assert time.monotonic() < end, f"{container} has not said {word}"
            time.sleep(0.2)  # Logs are asked for anew: a stream ends with the container.

    def run(self, project: Project, **options: Any) -> Outcome:
        """Run a pod to its end, which must be a good one."""
        outcome = self.outcome(self.start(project, **options))
        found = "\n".join((outcome.said, outcome.output, outcome.logs[SIDECAR][-3000:]))
        assert outcome.code == 0, found
        return outcome
