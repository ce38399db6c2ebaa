"""Pipelines of three steps in one pod, checkout, compile, image-build, beside the sidecar."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from perf.build import Step, read_progress
from tests.cluster.kube import Namespace, Object, ended, selected, terminated
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
        self, project: Project, *, env: Mapping[str, str] | None = None, **sidecar: Any
    ) -> str:
        """Start a pod with an image of its own to push; return its name."""
        self._count += 1
        name = f"build-{self._count}"
        objects = render(self.namespace.name, self._values(name, project, env or {}, sidecar))
        self.namespace.apply(self.store.secret(), *objects)
        job = selected(objects, "Job")["metadata"]["name"]
        selector = f"job-name={job}"
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
        """Wait for the pod's end and return it with its logs, which are kept in a directory too."""
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

    def run(self, project: Project, **options: Any) -> Outcome:
        """Run a pod to its end, which must be a good one."""
        outcome = self.outcome(self.start(project, **options))
        found = "\n".join((outcome.said, outcome.output, outcome.logs[SIDECAR][-3000:]))
        assert outcome.code == 0, found
        return outcome


def published(log: str) -> list[Object]:
    """Return what a sidecar's log says of the generations that it has published."""
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [event for event in events if event.get("event") == "published"]
