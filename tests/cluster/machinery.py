"""What stands outside the pods: the registry with the images, the object store, the chart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import yaml

from perf.host import REPOSITORY
from tests import minio
from tests.cluster.kube import Object, documents

KINDS = ("unconfined", "localhost", "userns", "tun")
"""Kinds of cluster: values of the chart's ``cluster.kind``."""
#: What a namespace says to PodSecurity for builds of a kind. Unconfined profiles and an unmasked
#: /proc are for the level privileged only, and so is nothing else.
LEVELS: Mapping[str, str] = {
    "unconfined": "privileged",
    "localhost": "baseline",
    "userns": "privileged",
    "tun": "privileged",
}
CHART = REPOSITORY / "deploy/helm/buildsvc"


@dataclass(frozen=True)
class Registry:
    """A registry outside the cluster, in plain HTTP, with the images of this tree."""

    host: str
    tag: str

    @property
    def busybox(self) -> str:
        """A base image of a second."""
        return f"{self.host}/base/busybox:latest"

    @property
    def debian(self) -> str:
        """A base image with apt."""
        return f"{self.host}/base/debian:latest"

    def digest(self, repository: str, tag: str) -> str:
        """Return the digest of what a tag names."""
        with self._ask(repository, f"manifests/{tag}") as answer:
            return str(answer.headers["Docker-Content-Digest"])

    def json(self, repository: str, path: str) -> Any:
        """Return a manifest, or a blob that is JSON."""
        with self._ask(repository, path) as answer:
            return json.load(answer)

    def _ask(self, repository: str, path: str) -> Any:
        kinds = ("image.manifest.v1", "image.index.v1")
        accept = ", ".join(f"application/vnd.oci.{kind}+json" for kind in kinds)
        url = f"http://{self.host}/v2/{repository}/{path}"
        return urlopen(Request(url, headers={"Accept": accept}), timeout=10)


@dataclass(frozen=True)
class Store:
    """A bucket of a real S3 server, which pods reach."""

    server: minio.Minio
    prefix: str

    @property
    def url(self) -> str:
        """The address, as ``--store`` takes it."""
        return self.server.address(self.prefix)

    def ask(self, *argv: str) -> Any:
        """Run ``buildsvc cache`` on it and return the JSON that it prints."""
        command, *rest = argv
        done = subprocess.run(
            [sys.executable, "-m", "buildsvc", "cache", command, self.url, *rest, "--json"],
            env={**os.environ, **minio.CREDENTIALS}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr}"
        return json.loads(done.stdout)

    def generations(self) -> list[Object]:
        """Return the generations of its only key; none without one."""
        keys = self.ask("ls")["keys"]
        assert len(keys) <= 1, keys
        return list(keys[0]["generations"]) if keys else []

    def key(self) -> str:
        """Return its only key, as the commands name it."""
        (one,) = self.ask("ls")["keys"]
        return str(one["key"])

    def secret(self) -> Object:
        """Return the Secret with its credentials, as the chart's values name it."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "buildsvc-store"},
            "stringData": dict(minio.CREDENTIALS),
        }


def render(namespace: str, values: Mapping[str, Any]) -> list[Object]:
    """Return the objects that the chart has for values."""
    done = subprocess.run(
        ["helm", "template", "chart", str(CHART), f"--namespace={namespace}", "--values=-"],
        input=yaml.safe_dump(dict(values)), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def webhook_template(objects: Sequence[Object]) -> str:
    """Return what the webhook puts into pods, of the chart's objects."""
    maps = [one["data"] for one in objects if one["kind"] == "ConfigMap"]
    return next(str(data["pod.yaml"]) for data in maps if "pod.yaml" in data)


def logs_directory() -> Path:
    """Return where what pods said is kept for who looks into a failure."""
    directory = Path(os.environ.get("BUILDSVC_CLUSTER_LOGS", "/tmp/buildsvc-cluster-logs"))
    directory.mkdir(parents=True, exist_ok=True)
    return directory
