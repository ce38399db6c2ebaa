"""Looking at manifests: what the chart renders for given values, and what is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import manifests
import yaml

from sidecar.settings import Settings
from sidecar.sources import load_settings

Object = dict[str, Any]

STORE = "s3://builds/cache?endpoint=https://minio.example:9000"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
EVERYTHING: Mapping[str, Any] = {
    "builds": {"namespaces": ["builds", "more-builds"], "createNamespaces": True},
    "image": {"pullSecrets": ["pull"], "digests": {"step": "sha256:" + "a" * 64}},
    "store": {"url": STORE, "caConfigMap": "store-ca"},
    "cache": {
        "key": "{repository}/{branch}",
        "fallbackKeys": ["{repository}/main", "common"],
        "tenant": "acme",
        "trustDomain": "forks",
        "readDomains": ["protected"],
        "excludeMounts": ["/root/.m2", "npm-*"],
        "publish": "on-success",
        "restore": "complete",
    },
    "signing": {
        "existingSecret": "buildsvc-signing",
        "verifyConfigMap": "buildsvc-verify",
        "verifyKeys": ["acme/forks=forks.pem", "acme/protected=protected.pem"],
    },
    "registry": {
        "host": "registry.example:5000",
        "ca": CERTIFICATE,
        "mirrors": {"docker.io": ["mirror.example"]},
        "existingSecret": "registry-credentials",
    },
    "sidecar": {
        "denyCidrs": ["10.0.0.0/8", "fd00::/8"],
        "uploadLimit": "20MB",
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
        "extraVolumes": [{"name": "extra", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "extra", "mountPath": "/extra"}],
    },
    "webhook": {"allow": {"cache-key": ["team-a/*"]}},
    "gc": {"enabled": True, "maxSize": "500GB", "signingSecret": "buildsvc-gc-signing"},
    "networkPolicy": {
        "allow": [{"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}],
        "monitoringNamespaces": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}},
        "apiServerCidrs": ["10.0.0.1/32"],
    },
    "monitoring": {"monitors": True, "rules": True, "dashboard": True, "labels": {"team": "ci"}},
    "examples": {"enabled": True, "cacheKey": "example"},
}
"""Values that switch everything on that can go together, in a cluster of any kind."""

KINDS: Mapping[str, Mapping[str, Any]] = {
    **{kind: {"kind": kind} for kind in manifests.KINDS},
    "tun of the host": {"kind": "tun", "tun": "hostPath"},
    "tun of a plugin": {"kind": "tun", "tun": "devicePlugin", "tunResource": "squat.ai/tun"},
    "localhost with AppArmor": {"kind": "localhost", "appArmor": "Localhost"},
    "userns with seccomp": {"kind": "userns", "seccomp": "Localhost"},
}
"""Values of ``cluster``."""


def chart(values: Mapping[str, Any]) -> dict[str, str]:
    """Return what Helm renders for these values, by template. Rendered once a process."""
    return _chart(json.dumps(values, sort_keys=True))


@cache
def _chart(values: str) -> dict[str, str]:
    return manifests.render(*flags(json.loads(values)))


def flags(values: Mapping[str, Any]) -> list[str]:
    """Return these values as options of Helm."""
    return [f"--set-json={name}={json.dumps(one)}" for name, one in values.items()]


def objects(values: Mapping[str, Any]) -> list[Object]:
    """Return the objects that these values make."""
    return [one for text in chart(values).values() for one in parsed(text)]


def parsed(text: str) -> list[Object]:
    """Return the documents of a manifest."""
    return [one for one in yaml.safe_load_all(text) if one is not None]


def one(found: list[Object], kind: str, name: str | None = None) -> Object:
    """Return the only object of a kind, and of a name if one is given."""
    (result,) = [
        each for each in found if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]
    return result


def pod_template(found: list[Object]) -> Object:
    """Return what the webhook merges into pods."""
    text = one(found, "ConfigMap", "buildsvc-webhook")["data"]["pod.yaml"]
    result: Object = yaml.safe_load(text)
    return result


def pod_specs(found: list[Object]) -> Iterator[Object]:
    """Yield the spec of every pod that the objects make, that of the webhook's template not."""
    for each in found:
        match each["kind"]:
            case "Deployment" | "Job":
                yield each["spec"]["template"]["spec"]
            case "CronJob":
                yield each["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def example(found: list[Object]) -> Object:
    """Return the pod of the example."""
    spec: Object = one(found, "Job")["spec"]["template"]["spec"]
    return spec


def containers(spec: Object) -> list[Object]:
    """Return all containers of a pod."""
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def named(spec: Object, name: str) -> Object:
    """Return a container by its name."""
    (found,) = [each for each in containers(spec) if each["name"] == name]
    return found


def env(container: Object) -> dict[str, str]:
    """Return the variables of a container that have a value; each must be there once."""
    names = [each["name"] for each in container.get("env", [])]
    assert len(set(names)) == len(names), names
    return {each["name"]: each["value"] for each in container.get("env", []) if "value" in each}


def sidecars(found: list[Object]) -> list[Object]:
    return [pod_template(found)["spec"]["initContainers"][0], named(example(found), "buildsvc")]


def read(sidecar: Object) -> Settings:
    """As the sidecar itself reads it: raises for what it does not know or take."""
    return load_settings({}, env(sidecar))
