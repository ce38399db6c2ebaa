"""What deploy/ ships, as the real API server and the real kustomize take it; nothing is kept."""

from __future__ import annotations

import re
from typing import Any

import manifests
import pytest
import yaml

from tests.cluster.kube import KubeError, Namespace, namespace
from tests.cluster.machinery import KINDS, LEVELS
from tests.unit.deploy.objects import EVERYTHING, Object, containers, flags, one, parsed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.usefixtures("registry")]

#: Of operators that this cluster does not have.
_FOREIGN = ("monitoring.coreos.com/", "apps.kruise.io/")
_TRY = ("create", "--dry-run=server", "--validate=strict", "--output=name", "--filename=-")


def rendered(kind: str, within: Namespace) -> list[Object]:
    """Everything that the chart can make for a kind of cluster, in a namespace that there is."""
    values: dict[str, Any] = {**EVERYTHING, "cluster": {"kind": kind}, "builds": {}}
    texts = manifests.render(*flags(values), namespace=within.name).values()
    made = [each for text in texts for each in parsed(text)]
    return [each for each in made if not each["apiVersion"].startswith(_FOREIGN)]


def tried(within: Namespace, *objects: Object) -> list[str]:
    """Have the API server look at objects, strictly; return their names. Raises KubeError."""
    return within.run(*_TRY, given=yaml.safe_dump_all(objects)).splitlines()


@pytest.mark.parametrize("kind", KINDS)
def test_the_api_server_takes_the_chart(kind: str) -> None:
    level = {"pod-security.kubernetes.io/enforce": LEVELS[kind]}
    with namespace("manifests", level) as there:
        objects = rendered(kind, there)
        assert len(tried(there, *objects)) == len(objects) > 15


@pytest.mark.parametrize("kind", KINDS)
def test_pods_are_within_the_level_of_their_kind(kind: str) -> None:
    level = {"pod-security.kubernetes.io/enforce": LEVELS[kind]}
    with namespace("manifests", level) as there:
        objects = rendered(kind, there)
        there.apply(one(objects, "ServiceAccount", "buildsvc-build"))
        template = one(objects, "Job")["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
        assert tried(there, {**pod, "metadata": {"name": "example"}}) == ["pod/example"]


def test_the_others_are_within_restricted() -> None:
    with namespace("manifests", {"pod-security.kubernetes.io/enforce": "restricted"}) as there:
        objects = rendered("unconfined", there)
        for name in ("buildsvc-webhook", "buildsvc-gc"):
            there.apply(one(objects, "ServiceAccount", name))
        collector = one(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        webhook = one(objects, "Deployment")["spec"]["template"]["spec"]
        for name, spec in (("gc", collector), ("webhook", webhook)):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
            assert tried(there, pod) == [f"pod/{name}"]


def test_the_level_is_really_looked_at() -> None:
    with namespace("manifests", {"pod-security.kubernetes.io/enforce": "baseline"}) as there:
        objects = rendered("unconfined", there)
        there.apply(one(objects, "ServiceAccount", "buildsvc-build"))
        spec = one(objects, "Job")["spec"]["template"]["spec"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
        with pytest.raises(KubeError, match="violates PodSecurity"):
            tried(there, pod)


@pytest.mark.parametrize("kind", KINDS)
def test_the_webhooks_template_makes_a_pod(kind: str) -> None:
    """As the webhook merges it, with one container that builds."""
    level = {"pod-security.kubernetes.io/enforce": LEVELS[kind]}
    with namespace("manifests", level) as there:
        objects = rendered(kind, there)
        there.apply(one(objects, "ServiceAccount", "buildsvc-build"))
        template = yaml.safe_load(one(objects, "ConfigMap", "buildsvc-webhook")["data"]["pod.yaml"])
        builder = {
            **containers(one(objects, "Job")["spec"]["template"]["spec"])[-1],
            **template["client"],
        }
        spec = {**template["spec"], "serviceAccountName": "buildsvc-build", "containers": [builder]}
        metadata = {"name": "injected", **template["metadata"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        assert tried(there, pod) == ["pod/injected"]


@pytest.mark.parametrize("kind", KINDS)
def test_kustomize_makes_what_helm_makes(kind: str) -> None:
    built = parsed(
        Namespace("default").run("kustomize", str(manifests.DEPLOY / f"kustomize/kinds/{kind}"))
    )
    helms = [
        each
        for text in manifests.render(f"--set=cluster.kind={kind}", values=manifests.VALUES).values()
        for each in parsed(text)
    ]
    (config,) = [each for each in built if "pod.yaml" in each.get("data", {})]
    # The digest in its name has reached the pods that mount it.
    assert re.fullmatch(r"buildsvc-webhook-[0-9a-z]{10}", config["metadata"]["name"])
    volumes = one(built, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert config["metadata"]["name"] in {each.get("configMap", {}).get("name") for each in volumes}
    wanted = one(helms, "ConfigMap", "buildsvc-webhook")["data"]["pod.yaml"]
    assert yaml.safe_load(config["data"]["pod.yaml"]) == yaml.safe_load(wanted)
    for one_kind in ("MutatingWebhookConfiguration", "ClusterRole", "Role", "PodDisruptionBudget"):
        mine, theirs = one(built, one_kind), one(helms, one_kind)
        assert {**mine, "metadata": {}} == {**theirs, "metadata": {}}
