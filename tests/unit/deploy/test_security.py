"""What the chart permits: no more than each kind of cluster needs."""

from __future__ import annotations

import re
from collections.abc import Mapping

import manifests
import pytest
import yaml

from sidecar.agent.routes import METADATA
from tests.unit.deploy.objects import (
    EVERYTHING,
    KINDS,
    Object,
    containers,
    env,
    example,
    objects,
    one,
    pod_specs,
    pod_template,
    read,
)

SECURITY: Mapping[str, tuple[str, str | None, str | None]] = {
    "unconfined": ("Unconfined", "Unconfined", None),
    "localhost": ("Localhost", None, None),
    "userns": ("Unconfined", "Unconfined", "Unmasked"),
    "tun": ("Unconfined", "Unconfined", None),
    "tun of the host": ("Unconfined", "Unconfined", None),
    "tun of a plugin": ("Unconfined", "Unconfined", None),
    "localhost with AppArmor": ("Localhost", "Localhost", None),
    "userns with seccomp": ("Localhost", "Unconfined", "Unmasked"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_security_of_each_kind(kind: str) -> None:
    found = objects({**EVERYTHING, "cluster": KINDS[kind]})
    seccomp, apparmor, proc = SECURITY[kind]
    for spec in (pod_template(found)["spec"], example(found)):
        sidecar = spec["initContainers"][0]
        context = sidecar["securityContext"]
        assert context["seccompProfile"]["type"] == seccomp
        assert context["seccompProfile"].get("localhostProfile") == (
            "buildsvc.json" if seccomp == "Localhost" else None
        )
        assert context.get("appArmorProfile", {}).get("type") == apparmor
        assert context.get("procMount") == proc
        # Without these newuidmap cannot map subordinate ids; with more, a RUN step gains nothing.
        assert context["allowPrivilegeEscalation"] is True
        assert context["capabilities"] == {"drop": ["ALL"], "add": ["SETUID", "SETGID"]}
        assert "privileged" not in context
        userns = KINDS[kind]["kind"] == "userns"
        assert spec.get("hostUsers") == (False if userns else None)
        assert read(sidecar).process_sandbox is userns
        assert spec.get("runtimeClassName") == ("buildsvc-tun" if kind == "tun" else None)
        host = {each["hostPath"]["path"] for each in spec["volumes"] if "hostPath" in each}
        assert host == ({"/dev/net/tun"} if kind == "tun of the host" else set())
        limits = sidecar["resources"].get("limits", {})
        assert limits == ({"squat.ai/tun": 1} if kind == "tun of a plugin" else {})


def test_kind_localhost_is_within_pod_security_baseline() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#baseline."""
    allowed = {"AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"}
    allowed |= {"NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}
    found = objects({**EVERYTHING, "cluster": {"kind": "localhost"}})
    spec = example(found)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not [each for each in spec["volumes"] if "hostPath" in each]
    for container in containers(spec):
        context = container["securityContext"]
        assert context["seccompProfile"]["type"] in ("RuntimeDefault", "Localhost")
        assert "procMount" not in context
        assert "appArmorProfile" not in context
        assert set(context["capabilities"].get("add", [])) <= allowed
    namespace = one(found, "Namespace", "builds")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "baseline"


def test_all_but_the_sidecar_are_within_pod_security_restricted(found: list[Object]) -> None:
    others = [
        each for spec in pod_specs(found) for each in containers(spec) if each["name"] != "buildsvc"
    ]
    assert others
    for container in others:
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_webhook_cannot_stop_a_cluster(found: list[Object]) -> None:
    (hook,) = one(found, "MutatingWebhookConfiguration")["webhooks"]
    assert hook["failurePolicy"] == "Ignore"
    assert hook["timeoutSeconds"] <= 5
    assert hook["namespaceSelector"]["matchLabels"] == {"buildsvc.io/injection": "enabled"}
    assert hook["sideEffects"] == "None"
    (rule,) = hook["rules"]
    assert (rule["operations"], rule["resources"]) == (["CREATE"], ["pods"])
    service = one(found, "Service")
    wanted = hook["clientConfig"]["service"]
    assert (wanted["name"], wanted["namespace"], wanted["port"]) == (
        service["metadata"]["name"],
        service["metadata"]["namespace"],
        service["spec"]["ports"][0]["port"],
    )
    assert "buildsvc.io/inject" in hook["matchConditions"][0]["expression"]


def test_the_webhook_may_do_nothing_but_renew_its_certificate(found: list[Object]) -> None:
    (role,) = one(found, "Role")["rules"]
    (cluster_role,) = one(found, "ClusterRole")["rules"]
    configuration = one(found, "MutatingWebhookConfiguration")["metadata"]["name"]
    certificate = one(found, "Secret")["metadata"]
    assert (role["resources"], role["resourceNames"]) == (["secrets"], [certificate["name"]])
    assert cluster_role["resourceNames"] == [configuration]
    assert set(role["verbs"]) | set(cluster_role["verbs"]) == {"get", "patch"}
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert f"--configuration={configuration}" in container["args"]
    assert f"--namespace={certificate['namespace']}" in container["args"]
    assert f"--secret={certificate['name']}" in container["args"]


def test_nothing_secret_is_rendered() -> None:
    found = objects(EVERYTHING)
    for each in found:
        if each["kind"] == "Secret":
            assert not {"data", "stringData"} & set(each)
    for spec in pod_specs(found):
        for container in containers(spec):
            for name in env(container):
                assert not re.search(r"PASSWORD|TOKEN$|ACCESS_KEY|SECRET_KEY", name), name
    values = (manifests.CHART / "values.yaml").read_text()
    assert not re.search(
        r"^\s*\w*(password|accessKey|secretAccess|token)\w*:", values, re.IGNORECASE | re.MULTILINE
    )


def test_metadata_addresses_are_blocked_as_the_sidecar_blocks_them() -> None:
    values = yaml.safe_load((manifests.CHART / "values.yaml").read_text())
    assert tuple(values["networkPolicy"]["blocked"]) == METADATA
    policies = [
        each for each in objects(EVERYTHING) if each["metadata"]["name"] == "buildsvc-build"
    ]
    egress = [each["spec"]["egress"] for each in policies if each["kind"] == "NetworkPolicy"]
    assert len(egress) == 2
    blocks = [each["ipBlock"] for each in egress[0][1]["to"]]
    assert {each["cidr"] for each in blocks} == {"0.0.0.0/0", "::/0"}
    assert {cidr for each in blocks for cidr in each["except"]} == set(METADATA)


def test_closed_policy_leaves_names_and_what_is_allowed() -> None:
    values = {"networkPolicy": {"open": False, "allow": [{"ports": [{"port": 5000}]}]}}
    policy = one(objects(values), "NetworkPolicy", "buildsvc-build")
    names, allowed = policy["spec"]["egress"]
    assert {each["port"] for each in names["ports"]} == {53}
    assert allowed == {"ports": [{"port": 5000}]}
