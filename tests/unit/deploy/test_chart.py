"""The chart: what it renders can be used, for every kind of cluster, by the programs it is for."""

from __future__ import annotations

import tomllib

import pytest

from buildsvc.ci import SYSTEMS
from buildsvc.cli import _parser
from buildsvc.imagebuild.settings import load_settings as load_step_settings
from buildsvc.values import parse_size
from buildsvc.webhook.settings import load_settings
from buildsvc.webhook.template import parse_template
from tests.unit.deploy.objects import (
    EVERYTHING,
    STORE,
    Object,
    chart,
    containers,
    env,
    example,
    named,
    objects,
    one,
    parsed,
    pod_specs,
    pod_template,
    read,
    sidecars,
)


def test_objects_are_whole(found: list[Object]) -> None:
    ids = [
        (
            each["apiVersion"],
            each["kind"],
            each["metadata"].get("namespace"),
            each["metadata"]["name"],
        )
        for each in found
    ]
    assert len(set(ids)) == len(ids)
    for each in found:
        assert each["metadata"]["labels"]["app.kubernetes.io/name"] == "buildsvc"
        assert all(isinstance(value, str) for value in each["metadata"]["labels"].values())


def test_the_sidecar_takes_its_settings(found: list[Object]) -> None:
    for sidecar in sidecars(found):
        settings = read(sidecar)
        settings.named({"CI_PROJECT_PATH": "acme/app", "CI_COMMIT_BRANCH": "main"})
        assert str(settings.endpoint_path) == "/run/buildsvc/endpoint.json"
        assert sidecar["command"] == ["sidecar", "run"]


def test_settings_come_from_the_values() -> None:
    sidecar, _ = sidecars(objects(EVERYTHING))
    settings = read(sidecar)
    assert settings.store == STORE
    assert settings.cache_key == "{repository}/{branch}"
    assert settings.fallback_key == ("{repository}/main", "common")
    assert (settings.tenant, settings.trust_domain) == ("acme", "forks")
    assert settings.read_domains == ("protected",)
    assert settings.exclude_mount == ("/root/.m2", "npm-*")
    assert (settings.publish, settings.restore) == ("on-success", "complete")
    assert settings.deny_cidr == ("10.0.0.0/8", "fd00::/8")
    assert settings.upload_limit == 20_000_000
    assert str(settings.signing_key) == "/etc/buildsvc/signing/signing.pem"
    assert {str(key.path) for key in settings.verify_keys} == {
        "/etc/buildsvc/verify/forks.pem",
        "/etc/buildsvc/verify/protected.pem",
    }
    assert env(sidecar)["HTTPS_PROXY"] == "http://proxy.example:3128"


def test_the_example_has_a_cache_key_of_its_own() -> None:
    injected, shown = sidecars(objects(EVERYTHING))
    assert read(injected).cache_key == "{repository}/{branch}"
    assert read(shown).cache_key == "example"


def test_the_step_takes_its_options(found: list[Object]) -> None:
    settings = load_step_settings({}, env(named(example(found), "image-build")))
    assert settings.repository == "buildsvc-example"
    client = pod_template(found)["client"]
    load_step_settings(
        {"repository": "app", "version": "1"}, {one["name"]: one["value"] for one in client["env"]}
    )


def test_mounts_have_volumes_and_volumes_are_mounted(found: list[Object]) -> None:
    template = pod_template(found)
    injected = {
        "volumes": template["spec"]["volumes"],
        "containers": [*template["spec"]["initContainers"], template["client"]],
    }
    for spec in [injected, *pod_specs(found)]:
        volumes = [each["name"] for each in spec["volumes"]]
        mounts = {each["name"] for one in containers(spec) for each in one.get("volumeMounts", [])}
        assert len(set(volumes)) == len(volumes)
        assert set(volumes) == mounts


def mounted(container: Object) -> dict[str, str]:
    return {each["mountPath"]: each["name"] for each in container["volumeMounts"]}


def test_sidecar_and_step_share_what_both_need() -> None:
    found = objects(EVERYTHING)
    spec = example(found)
    sidecar, step = named(spec, "buildsvc"), named(spec, "image-build")
    for place in ("/run/buildsvc", "/etc/buildsvc/registry"):
        assert mounted(sidecar)[place] == mounted(step)[place]
    # The client's key is readable by one user only.
    users = {each["securityContext"]["runAsUser"] for each in (sidecar, step)}
    assert users == {1000}
    ours = {place for place, volume in mounted(step).items() if volume.startswith("buildsvc-")}
    settings = load_step_settings({}, env(step))
    assert str(settings.registry_ca) == "/etc/buildsvc/registry/ca.pem"
    assert str(settings.registry_secret) in ours
    # Keys are the sidecar's alone.
    assert not {"/etc/buildsvc/signing", "/var/lib/buildsvc"} & set(mounted(step))


def test_registries_in_every_build_namespace() -> None:
    maps = [each for each in objects(EVERYTHING) if each["metadata"]["name"] == "buildsvc-registry"]
    assert [each["metadata"]["namespace"] for each in maps] == ["builds", "more-builds"]
    config = tomllib.loads(maps[0]["data"]["buildkitd.toml"])
    assert config["registry"]["registry.example:5000"] == {"ca": ["/etc/buildsvc/registry/ca.pem"]}
    assert config["registry"]["docker.io"] == {"mirrors": ["mirror.example"]}
    assert maps[0]["data"]["ca.pem"].startswith("-----BEGIN CERTIFICATE-----")


def test_the_sidecar_lives_beside_the_steps(found: list[Object]) -> None:
    spec = example(found)
    assert [each["name"] for each in containers(spec)] == [
        *("buildsvc", "checkout", "compile", "image-build")
    ]
    assert [each.get("restartPolicy") for each in spec["initContainers"]] == ["Always", None, None]


def test_probes_do_not_hold_builds_back(found: list[Object]) -> None:
    for sidecar in sidecars(found):
        startup, live = sidecar["startupProbe"], sidecar["livenessProbe"]
        assert startup["httpGet"]["path"] == live["httpGet"]["path"] == "/healthz"
        assert startup["periodSeconds"] == 1
        assert "initialDelaySeconds" not in startup
        assert sidecar["readinessProbe"]["httpGet"]["path"] == "/readyz"
        (port,) = sidecar["ports"]
        probed = {
            sidecar[f"{one}Probe"]["httpGet"]["port"]
            for one in ("startup", "liveness", "readiness")
        }
        assert probed == {port["name"]}
        address = read(sidecar).http_address
        # The kubelet and Prometheus connect from outside the pod.
        assert address is not None
        assert not address.loopback
        assert address.port == port["containerPort"]


def test_publishing_ends_before_the_pod_does(found: list[Object]) -> None:
    for spec in (pod_template(found)["spec"], example(found)):
        sidecar = spec["initContainers"][0]
        assert read(sidecar).grace == spec["terminationGracePeriodSeconds"] - 30


@pytest.mark.parametrize("size", ["40Gi", "7Gi", "600Mi", "1Ti"])
def test_room_for_a_build_under_way(size: str) -> None:
    sidecar, _ = sidecars(objects({"examples": {"enabled": True}, "sidecar": {"rootSize": size}}))
    limit = read(sidecar).max_used_space
    assert limit is not None
    assert limit == parse_size(f"{size}B") * 3 // 4


def test_selectors_find_their_pods() -> None:
    found = objects(EVERYTHING)
    labels = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        one(found, "Deployment")["spec"]["selector"]["matchLabels"],
        one(found, "Service")["spec"]["selector"],
        one(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(found, "NetworkPolicy", "buildsvc-webhook")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels.items()
    monitor = one(found, "ServiceMonitor")["spec"]
    service = one(found, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in {each["name"] for each in service["spec"]["ports"]}
    collector = one(found, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]
    policy = one(found, "NetworkPolicy", "buildsvc-gc")["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= collector["labels"].items()
    for pod in (pod_template(found), one(found, "Job")["spec"]["template"]):
        labels = pod["metadata"]["labels"]
        for each in found:
            if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "buildsvc-build":
                assert each["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = one(found, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] == sidecars(found)[0]["ports"][0]["name"]


def test_one_replica_can_be_drained() -> None:
    kinds = {each["kind"] for each in objects({"webhook": {"replicas": 1}})}
    assert "Deployment" in kinds
    assert "PodDisruptionBudget" not in kinds


def test_the_webhook_takes_its_template(found: list[Object]) -> None:
    parse_template(one(found, "ConfigMap", "buildsvc-webhook")["data"]["pod.yaml"])


def test_the_webhook_takes_its_arguments() -> None:
    found = objects(EVERYTHING)
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    given = dict(word.removeprefix("--").split("=", 1) for word in container["args"])
    settings = load_settings({name.replace("-", "_"): value for name, value in given.items()}, {})
    assert f"{settings.template.parent}" in mounted(container)
    assert {settings.listen[1], settings.http_listen[1]} == {
        each["containerPort"] for each in container["ports"]
    }


def test_the_collector_takes_its_arguments() -> None:
    spec = one(objects(EVERYTHING), "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["command"][0] == "buildsvc"
    arguments = _parser().parse_args([*container["command"][1:], *container["args"]])
    assert arguments.keep_last == 3
    assert arguments.max_age == 30 * 86400
    assert {str(key.path) for key in arguments.verify_key} == {
        "/etc/buildsvc/verify/forks.pem",
        "/etc/buildsvc/verify/protected.pem",
    }
    # Its identity is not that of the builds.
    assert spec["serviceAccountName"] == "buildsvc-gc"
    assert container["envFrom"] == [{"secretRef": {"name": "buildsvc-gc"}}]


def test_snippet_has_the_same_sidecar() -> None:
    snippet = parsed(chart({**EVERYTHING, "snippet": {"enabled": True}})["snippet.yaml"])
    (pod,) = snippet
    assert pod["initContainers"][0] == sidecars(objects(EVERYTHING))[0]
    assert "snippet.yaml" not in chart(EVERYTHING)


def test_sidecarset_has_the_same_sidecar() -> None:
    values = {**EVERYTHING, "webhook": {"enabled": False}, "sidecarSet": {"enabled": True}}
    found = objects(values)
    (sidecar,) = one(found, "SidecarSet")["spec"]["initContainers"]
    copied = sidecar.pop("transferEnv")
    assert sidecar.pop("podInjectPolicy") == "BeforeAppContainer"
    assert sidecar.pop("shareVolumePolicy") == {"type": "disabled"}
    assert sidecar == sidecars(objects(EVERYTHING))[0]
    assert {mark for system in SYSTEMS for mark in system.marks} <= {*copied[0]["envNames"]}
