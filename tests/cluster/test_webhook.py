"""The webhook as the chart installs it: many pods at once, and pods that start without it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
import yaml

from tests.cluster.kube import Namespace, Object, ended, namespace, selected
from tests.cluster.machinery import Registry, render, webhook_template

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PODS = 200
#: Of no node: pods that are made and not run.
_NOWHERE = {"buildsvc.io/test": "nowhere"}
#: Seconds.
_REACHED_WITHIN = 60.0


@dataclass(frozen=True)
class Installed:
    """The webhook in one namespace, and another one that takes part."""

    system: Namespace
    builds: Namespace
    template: Object
    registration: str
    registry: Registry

    def ready(self) -> None:
        """Wait until replicas are ready and the API server reaches them.

        kube-proxy leads to them somewhat later than they are ready, and tells nobody.
        """
        self.system.run("rollout", "status", "deployment/buildsvc-webhook", "--timeout=240s")
        until = time.monotonic() + _REACHED_WITHIN
        asks = yaml.safe_dump(pod(self.registry, "asks"))
        create = ("create", "--dry-run=server", "--output=json", "--filename=-")
        while not has_sidecar(json.loads(self.builds.run(*create, given=asks))):
            assert time.monotonic() < until, self.system.events()
            time.sleep(0.1)

    def scale(self, replicas: int) -> None:
        """Have so many replicas, and wait until it is so."""
        self.system.run("scale", "deployment/buildsvc-webhook", f"--replicas={replicas}")
        if replicas:
            self.ready()
        else:
            selector = "--selector=app.kubernetes.io/component=webhook"
            self.system.run("wait", "--for=delete", "pod", selector, "--timeout=180s")


@pytest.fixture(scope="module")
def installed(registry: Registry) -> Iterator[Installed]:
    """Two replicas that are ready: they have a certificate, and the API server trusts it."""
    takes_part = {
        "buildsvc.io/injection": "enabled",
        "pod-security.kubernetes.io/enforce": "privileged",
    }
    with namespace("webhook") as system, namespace("injected", takes_part) as builds:
        objects = render(system.name, {
            "image": {"registry": registry.host, "tag": registry.tag},
            "cluster": {"kind": "unconfined"},
            "store": {"url": "http://192.0.2.1/none"},
            "webhook": {"enabled": True, "replicas": 2},
        })  # fmt: skip
        system.apply(*objects)
        registration = selected(objects, "MutatingWebhookConfiguration")["metadata"]["name"]
        try:
            template = yaml.safe_load(webhook_template(objects))
            made = Installed(system, builds, template, registration, registry)
            made.ready()
            yield made
        finally:
            # Some of them are in no namespace and would stay.
            given = yaml.safe_dump_all(objects)
            system.run("delete", "--filename=-", "--ignore-not-found", "--wait=false", given=given)


def pod_spec(registry: Registry, **more: object) -> Object:
    step = {"name": "build", "image": registry.busybox, "command": ["true"]}
    return {"restartPolicy": "Never", "containers": [step], **more}


def metadata(name: str, **annotations: str) -> Object:
    asked = {"buildsvc.io/inject": "true", "buildsvc.io/cache-key": name}
    return {"name": name, "annotations": asked | annotations}


def pod(registry: Registry, name: str, **more: object) -> Object:
    spec = pod_spec(registry, **more)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata(name), "spec": spec}


def has_sidecar(of: Mapping[str, Object]) -> bool:
    first, *_ = of["spec"].get("initContainers") or [{"name": ""}]
    return bool(first["name"] == "buildsvc")


def test_two_hundred_pods_at_once(installed: Installed, registry: Registry) -> None:
    template = metadata("load")
    del template["name"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "load"},
        "spec": {
            # The controller makes them side by side, as fast as it may.
            "parallelism": PODS,
            "completions": PODS,
            "template": {
                "metadata": template,
                "spec": pod_spec(registry, nodeSelector=_NOWHERE),
            },
        },
    }
    installed.builds.apply(job)
    try:
        active = "--for=jsonpath={.status.active}=" + str(PODS)
        installed.builds.run("wait", "job/load", active, "--timeout=180s")
        made = installed.builds.pods("job-name=load")
    finally:
        installed.builds.run("delete", "job", "load", "--wait=false")
    assert len(made) == PODS
    assert sum(map(has_sidecar, made)) == PODS
    [wanted] = installed.template["spec"]["initContainers"]
    spec = made[0]["spec"]
    assert spec["initContainers"][0]["image"] == wanted["image"]
    mounts = [mount["name"] for mount in spec["containers"][0]["volumeMounts"]]
    assert "buildsvc-run" in mounts
    assert (
        spec["terminationGracePeriodSeconds"]
        == (installed.template["spec"]["terminationGracePeriodSeconds"])
    )
    assert len({one["metadata"]["annotations"]["buildsvc.io/injected"] for one in made}) == 1


@pytest.mark.parametrize(
    ("asked", "more", "word"),
    [({}, {"hostNetwork": True}, "hostNetwork"), ({"buildsvc.io/inject": "True"}, {}, "'True'")],
)
def test_who_makes_a_pod_that_cannot_have_it_reads_why(
    installed: Installed, registry: Registry, asked: Object, more: Object, word: str
) -> None:
    wrong = pod(registry, "wrong", **more)
    wrong["metadata"]["annotations"] |= asked
    done = subprocess.run(
        ["kubectl", f"--namespace={installed.builds.name}", "create", "--dry-run=server",
         "--output=json", "--filename=-"],
        input=yaml.safe_dump(wrong), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning: buildsvc: the pod starts without the build sidecar" in done.stderr
    assert word in done.stderr
    assert not has_sidecar(json.loads(done.stdout))


def test_a_namespace_that_takes_no_part(installed: Installed, registry: Registry) -> None:
    installed.system.apply(pod(registry, "apart", nodeSelector=_NOWHERE))
    assert not has_sidecar(installed.system.get("pod", "apart"))


def test_with_the_webhook_down_pods_start(installed: Installed, registry: Registry) -> None:
    installed.scale(0)
    try:
        installed.builds.apply(pod(registry, "alone"))
        found = installed.builds.wait("alone", ended, "a pod without the webhook")
        assert found["status"]["phase"] == "Succeeded"
        assert not has_sidecar(found)
    finally:
        installed.scale(2)
    # And it goes on with the certificate that it had.
    installed.builds.apply(pod(registry, "again", nodeSelector=_NOWHERE))
    assert has_sidecar(installed.builds.get("pod", "again"))


def test_a_registration_without_its_authority_gets_it_again(
    installed: Installed, registry: Registry
) -> None:
    def trusted() -> str:
        found = installed.system.get("mutatingwebhookconfiguration", installed.registration)
        return str(found["webhooks"][0]["clientConfig"].get("caBundle", ""))

    before = trusted()
    assert before
    gone = [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]
    name = f"mutatingwebhookconfiguration/{installed.registration}"
    installed.system.run("patch", name, "--type=json", f"--patch={json.dumps(gone)}")
    installed.system.run(
        "wait", name, "--for=jsonpath={.webhooks[0].clientConfig.caBundle}", "--timeout=120s"
    )
    assert trusted() == before
    installed.builds.apply(pod(registry, "trusted", nodeSelector=_NOWHERE))
    assert has_sidecar(installed.builds.get("pod", "trusted"))
