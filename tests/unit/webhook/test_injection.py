"""What the webhook makes of pods."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest

from buildsvc.webhook.injection import inject
from buildsvc.webhook.review import NoReview, answer, parse_review, patch_of
from buildsvc.webhook.template import parse_template
from tests.unit.webhook.samples import Json, env, pod, review, template


def made(of: Json, **changes: Any) -> Json:
    injection = inject(of, template(**changes))
    assert injection.what == "injected", injection.reason
    assert injection.pod is not None
    return injection.pod


def refused(of: Json, **changes: Any) -> str:
    injection = inject(of, template(**changes))
    assert (injection.what, injection.pod) == ("refused", None)
    return injection.reason


def sidecar_env(of: Json) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in of["spec"]["initContainers"][0]["env"]}


def test_what_a_pod_gets() -> None:
    before = pod()
    untouched = copy.deepcopy(before)
    after = made(before)
    assert before == untouched
    spec = after["spec"]
    assert [one["name"] for one in spec["initContainers"]] == ["buildsvc", "checkout"]
    assert [one["name"] for one in spec["volumes"]] == ["work", "buildsvc-run", "buildsvc-root"]
    assert spec["runtimeClassName"] == "buildsvc-tun"
    assert spec["terminationGracePeriodSeconds"] == 900
    assert spec["securityContext"] == {"fsGroup": 1000, "seccompProfile": {"type": "Unconfined"}}
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    [build] = spec["containers"]
    assert build["volumeMounts"] == [{"name": "buildsvc-run", "mountPath": "/run/buildsvc"}]
    assert build["env"][-1]["name"] == "BUILDSVC_IMAGE_REGISTRY_CA"
    assert "volumeMounts" not in spec["initContainers"][1]
    assert sidecar_env(after) == {
        "BUILDSVC_STORE": "s3://builds/cache",
        "BUILDSVC_CACHE_KEY": "{repository}/{branch}",
        "CI_PROJECT_PATH": "team/app",
        "CI_COMMIT_BRANCH": "main",
    }
    assert after["metadata"]["annotations"]["buildsvc.io/injected"] == template().digest


def test_a_second_pass_changes_nothing_even_with_another_template() -> None:
    after = made(pod())
    assert inject(after, template()).what == "present"
    assert inject(after, template(client={})).what == "present"


def test_a_container_of_that_name_is_left_alone() -> None:
    own = pod(containers=[{"name": "buildsvc", "image": "mine"}])
    assert inject(own, template()).what == "present"


@pytest.mark.parametrize("annotations", [None, {}, {"buildsvc.io/inject": "false"}, {"other": "x"}])
def test_pods_that_do_not_ask(annotations: Json | None) -> None:
    asked = pod()
    asked["metadata"]["annotations"] = annotations
    assert inject(asked, template()).what == "not-asked"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"shareProcessNamespace": True}, "credentials"),
        ({"hostPID": True}, "hostPID"),
        ({"os": {"name": "windows"}}, "windows"),
        ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "windows"),
        ({"runtimeClassName": "gvisor"}, "runtimeClassName is 'gvisor'"),
        ({"volumes": [{"name": "buildsvc-run", "hostPath": {"path": "/"}}]}, "volume buildsvc-run"),
    ],
)
def test_pods_that_cannot_have_it(changes: Json, words: str) -> None:
    assert words in refused(pod(**changes))


@pytest.mark.parametrize(
    ("own", "words"),
    [({"hostUsers": True}, "hostUsers is True"), ({"hostIPC": True}, "hostIPC")],
)
def test_what_does_not_go_with_a_user_namespace(own: Json, words: str) -> None:
    spec = {**template().spec, "hostUsers": False, "initContainers": [template().sidecar]}
    assert words in refused(pod(**own), spec=spec)
    assert made(pod(), spec=spec)["spec"]["hostUsers"] is False
    assert made(pod(hostUsers=False), spec=spec)["spec"]["hostUsers"] is False


def test_the_pods_own_settings_stay() -> None:
    own = pod(
        securityContext={"fsGroup": 7},
        terminationGracePeriodSeconds=3600,
        imagePullSecrets=[{"name": "own"}, {"name": "pull"}],
        volumes=[{"name": "buildsvc-root", "emptyDir": {"sizeLimit": "20Gi", "medium": "Memory"}}],
        containers=[
            {
                "name": "build",
                "env": env(BUILDSVC_IMAGE_REGISTRY_CA="/own.pem", CI_PROJECT_PATH="a/b")
                + env(CI_COMMIT_BRANCH="x"),
                "volumeMounts": [{"name": "buildsvc-run", "mountPath": "/run/buildsvc"}],
            }
        ],
    )
    spec = made(own)["spec"]
    assert spec["securityContext"] == {"fsGroup": 7, "seccompProfile": {"type": "Unconfined"}}
    assert spec["terminationGracePeriodSeconds"] == 3600
    assert spec["imagePullSecrets"] == [{"name": "own"}, {"name": "pull"}]
    assert spec["volumes"][0]["emptyDir"]["medium"] == "Memory"
    assert spec["containers"] == own["spec"]["containers"]


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    known = {"CI_PROJECT_PATH": "a/b", "CI_COMMIT_BRANCH": "x"}
    own = env(BUILDSVC_IMAGE_REGISTRY_CA="", OTHER="", **known)
    spec = made(pod(containers=[{"name": "build", "env": own}]))["spec"]
    values = [(entry["name"], entry["value"]) for entry in spec["containers"][0]["env"]]
    assert ("OTHER", "") in values
    [told] = [value for name, value in values if name == "BUILDSVC_IMAGE_REGISTRY_CA"]
    assert told


def test_another_mount_where_the_sidecars_belongs() -> None:
    mounts = [{"name": "work", "mountPath": "/run/buildsvc"}]
    own = pod(containers=[{"name": "build", "volumeMounts": mounts}])
    own["metadata"]["annotations"]["buildsvc.io/cache-key"] = "k"
    assert "/run/buildsvc" in refused(own)


def test_containers_that_are_named() -> None:
    containers = [{"name": "a"}, {"name": "b"}]
    named = {"buildsvc.io/containers": "b, checkout", "buildsvc.io/cache-key": "k"}
    spec = made(pod(containers=containers, annotations=named))["spec"]
    with_mounts = [
        one["name"]
        for one in [*spec["initContainers"][1:], *spec["containers"]]
        if "volumeMounts" in one
    ]
    assert with_mounts == ["checkout", "b"]
    named["buildsvc.io/containers"] = "c"
    assert "no container 'c'" in refused(pod(containers=containers, annotations=named))


def test_annotations_choose_settings() -> None:
    chosen = {
        "buildsvc.io/cache-key": "app/$(HOME)",
        "buildsvc.io/fallback-key": "app/main,app/{env:JOB_NAME}",
        "buildsvc.io/trust-domain": "team-a",
        "buildsvc.io/publish": "never",
    }
    containers = [{"name": "build", "env": env(JOB_NAME="nightly")}]
    found = sidecar_env(made(pod(annotations=chosen, containers=containers)))
    # Written so that the kubelet replaces nothing in it.
    assert found["BUILDSVC_CACHE_KEY"] == "app/$$(HOME)"
    assert found["BUILDSVC_FALLBACK_KEY"] == "app/main,app/{env:JOB_NAME}"
    assert found["BUILDSVC_TRUST_DOMAIN"] == "team-a"
    assert found["BUILDSVC_PUBLISH"] == "never"
    assert found["JOB_NAME"] == "nightly"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("inject", "yes", 'expected "true" or "false"'),
        ("image", "evil", "no such annotation"),
        ("store", "s3://mine", "no such annotation"),
        ("containers", " , ", "expected names"),
        ("trust-domain", "protected", "permits forks, team-*"),
        ("read-domain", "other", "permits none"),
        ("publish", "always", "permits never"),
        ("publish", "perhaps", "expected always"),
        ("cache-key", "two words", "is no name"),
        ("cache-key", "{branch", "braces"),
        ("cache-key", "{tag}", "{tag}"),
        ("cache-key", "", "is no name"),
        ("fallback-key", ",", "expected a value"),
        # The sidecar's environment has the store's credentials.
        ("cache-key", "{env:AWS_SECRET_ACCESS_KEY}", "variable AWS_SECRET_ACCESS_KEY"),
        ("fallback-key", "x,{env:BUILDSVC_STORE}", "variable BUILDSVC_STORE"),
    ],
)
def test_annotations_that_are_wrong(name: str, value: str, words: str) -> None:
    assert words in refused(pod(annotations={f"buildsvc.io/{name}": value}))


def test_without_an_allow_list_a_pod_can_only_choose_names_and_less() -> None:
    plain = template()
    document = {
        "spec": {**plain.spec, "initContainers": [plain.sidecar]},
        "client": plain.client,
    }
    found = parse_template(json.dumps(document))
    for name, value, what in (
        ("cache-key", "x", "injected"),
        ("publish", "never", "injected"),
        ("publish", "always", "refused"),
        ("trust-domain", "forks", "refused"),
    ):
        assert inject(pod(annotations={f"buildsvc.io/{name}": value}), found).what == what


def test_a_sidecar_that_could_not_name_its_key_is_not_injected() -> None:
    nothing_known = pod(containers=[{"name": "build"}])
    assert "cannot be filled in" in refused(nothing_known)
    nothing_known["metadata"]["annotations"]["buildsvc.io/cache-key"] = "app"
    assert inject(nothing_known, template()).what == "injected"
    nothing_known["metadata"]["annotations"]["buildsvc.io/cache-key"] = "{env:JOB_NAME}"
    assert "JOB_NAME" in refused(nothing_known)


def test_a_templates_own_variables_may_be_in_its_secrets() -> None:
    sidecar = copy.deepcopy(template().sidecar)
    sidecar["env"] = env(BUILDSVC_CACHE_KEY="{env:FROM_THE_SECRET}")
    spec = {"initContainers": [sidecar]}
    assert inject(pod(), template(spec=spec, client={})).what == "injected"


def test_variables_that_are_known_when_the_pod_runs() -> None:
    by_label = {"fieldRef": {"fieldPath": "metadata.labels['branch']"}}
    containers: list[Json] = [
        {"name": "plain"},
        {"name": "step", "env": [{"name": "TEKTON_GIT_BRANCH", "valueFrom": by_label}]},
    ]
    entries = made(pod(containers=containers))["spec"]["initContainers"][0]["env"]
    assert {"name": "TEKTON_GIT_BRANCH", "valueFrom": by_label} in entries


def test_labels_and_annotations_of_the_template_fill_gaps() -> None:
    metadata = {"labels": {"a": "1", "b": "1"}, "annotations": {"c": "1"}}
    own = pod()
    own["metadata"]["labels"] = {"b": "2"}
    found = made(own, metadata=metadata)["metadata"]
    assert found["labels"] == {"a": "1", "b": "2"}
    assert found["annotations"]["c"] == "1"


def test_the_patch_makes_the_pod() -> None:
    before, after = pod(), made(pod())
    patched = copy.deepcopy(before)
    for operation in patch_of(before, after):
        assert operation["op"] == "add"
        _, part, name = operation["path"].split("/")
        patched[part][name] = operation["value"]
    assert patched == after
    assert patch_of(after, after) == []


def test_reviews() -> None:
    asked = parse_review(review(pod(), dryRun=True))
    assert (asked.uid, asked.namespace, asked.name, asked.dry_run) == ("42", "ci", "build-*", True)
    document = answer("42", pod(), inject(pod(), template()))
    response = document["response"]
    assert (response["uid"], response["allowed"], response["patchType"]) == (
        "42",
        True,
        "JSONPatch",
    )
    assert json.loads(base64.b64decode(response["patch"]))
    assert "warnings" not in response


def test_a_refusal_is_a_warning_and_never_a_no() -> None:
    wrong = pod(annotations={"buildsvc.io/cache-key": "x " * 300})
    response = answer("42", wrong, inject(wrong, template()))["response"]
    assert response["allowed"] is True
    assert "patch" not in response
    [text] = response["warnings"]
    assert text.startswith("buildsvc: the pod starts without the build sidecar: buildsvc.io/cache")
    assert len(text) == 256


@pytest.mark.parametrize(
    "request_",
    [
        {"operation": "UPDATE"},
        {"subResource": "ephemeralcontainers"},
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
        {"object": None},
    ],
)
def test_only_the_creation_of_pods_counts(request_: Json) -> None:
    assert parse_review(review(pod(), **request_)).pod is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1"}',
        b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {}}',
    ],
)  # fmt: skip
def test_what_is_no_review(body: bytes) -> None:
    with pytest.raises(NoReview):
        parse_review(body)
