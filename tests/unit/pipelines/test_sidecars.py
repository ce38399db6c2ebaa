"""The sidecar where it is written out: the same everywhere, with settings that it takes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from buildsvc.values import parse_duration, parse_size
from sidecar.sources import load_settings
from tests.unit.pipelines.kubelet import environment
from tests.unit.pipelines.places import PIPELINES, TREE, document

#: What differs: what the system tells of a build, and settings that depend on it.
OWN = ("TEKTON_", "CACHE_", "BUILDSVC_CACHE_KEY", "BUILDSVC_GRACE")
#: The chart's own, which the others were made from.
CHART = TREE / "deploy" / "kustomize" / "kinds" / "unconfined" / "pod.yaml"


def tekton() -> dict[str, Any]:
    spec = document(PIPELINES / "tekton" / "task-with-sidecar.yaml")["spec"]
    (sidecar,) = spec["sidecars"]
    # Tekton makes a native sidecar of it, and has another word for resources.
    container = {**sidecar, "restartPolicy": "Always", "resources": sidecar["computeResources"]}
    del container["computeResources"]
    # A pod of Tekton has Kubernetes' default: nothing of a TaskRun changes it.
    return {
        "initContainers": [container],
        "volumes": spec["volumes"],
        "terminationGracePeriodSeconds": 30,
        "containers": spec["steps"],
    }


def argo() -> dict[str, Any]:
    spec = document(PIPELINES / "argo" / "workflowtemplate-with-sidecar.yaml")["spec"]
    patch = yaml.safe_load(spec["templates"][0]["podSpecPatch"])
    assert isinstance(patch, dict)
    return patch


def gitlab() -> dict[str, Any]:
    text = (PIPELINES / "gitlab" / "config-with-sidecar.toml").read_text()
    (runner,) = tomllib.loads(text)["runners"]
    assert "FF_USE_ADVANCED_POD_SPEC_CONFIGURATION=true" in runner["environment"]
    (patch,) = runner["kubernetes"]["pod_spec"]
    pod = yaml.safe_load(patch["patch"])
    assert isinstance(pod, dict)
    grace = runner["kubernetes"]["pod_termination_grace_period_seconds"]
    assert pod["terminationGracePeriodSeconds"] == grace
    return pod


def jenkins() -> dict[str, Any]:
    pod = document(PIPELINES / "jenkins" / "pod-with-sidecar.yaml")["spec"]
    assert isinstance(pod, dict)
    return pod


PODS: Mapping[str, dict[str, Any]] = {
    "argo": argo(),
    "gitlab": gitlab(),
    "jenkins": jenkins(),
    "tekton": tekton(),
}


def common(pod: Mapping[str, Any]) -> Any:
    (container,) = pod["initContainers"]
    env = [one for one in container["env"] if not one["name"].startswith(OWN)]
    volumes = [one for one in pod["volumes"] if one["name"].startswith("buildsvc-")]
    return {**container, "env": env}, volumes


@pytest.mark.parametrize("system", PODS)
def test_it_is_the_same_everywhere(system: str) -> None:
    assert common(PODS[system]) == common(PODS["jenkins"])


def test_it_is_the_chart_s() -> None:
    container, volumes = common(document(CHART)["spec"])
    trusted = {"name": "BUILDSVC_TRUST_DOMAIN", "value": "protected"}
    env = [trusted if one["name"] == trusted["name"] else one for one in container["env"]]
    assert ({**container, "env": env}, volumes) == common(PODS["jenkins"])


@pytest.mark.parametrize("system", PODS)
def test_the_sidecar_takes_the_settings(system: str) -> None:
    pod = PODS[system]
    (container,) = pod["initContainers"]
    settings = load_settings({}, environment(container["env"]))
    assert settings.trust_domain == "protected"
    # It has to end before the kubelet ends it.
    assert settings.grace < pod["terminationGracePeriodSeconds"]
    (root,) = [one for one in pod["volumes"] if one["name"] == "buildsvc-root"]
    limit = parse_size(root["emptyDir"]["sizeLimit"].replace("Gi", "GiB"))
    assert settings.max_used_space is not None
    # A build under way takes room beside it, and the kubelet evicts a pod that exceeds the limit.
    assert settings.max_used_space < limit


@pytest.mark.parametrize("system", PODS)
def test_the_step_finds_the_endpoint(system: str) -> None:
    pod = PODS[system]
    (container,) = pod["initContainers"]
    settings = load_settings({}, environment(container["env"]))
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "buildsvc-run"]
    for path in (settings.endpoint_path, settings.tls_client_path):
        assert str(path).startswith(mount["mountPath"] + "/")
    mounts = [
        one
        for other in pod["containers"]
        for one in other.get("volumeMounts", [])
        if one["name"] == "buildsvc-run"
    ]
    assert mounts == [{**mount, "readOnly": True}]


def test_durations_of_the_files_are_durations() -> None:
    grace = [
        one["value"]
        for pod in PODS.values()
        for one in pod["initContainers"][0]["env"]
        if one["name"] == "BUILDSVC_GRACE"
    ]
    assert sorted(parse_duration(text) for text in grace) == [25, 150, 600, 600]
