"""The demo of the pipelines, as Jenkins runs it: its own pod, with the sidecar from the webhook."""

from __future__ import annotations

from collections.abc import Callable
from urllib.request import urlopen

import pytest
import yaml

from buildsvc.webhook.injection import inject
from buildsvc.webhook.template import parse_template
from perf.host import REPOSITORY
from tests.cluster.kube import Object
from tests.cluster.machinery import render, webhook_template
from tests.cluster.pipeline import Builds

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_DEMO = REPOSITORY / "deploy/pipelines/demo"
#: Where Jenkins' plugin mounts the workspace in every container.
_WORKSPACE = "/home/jenkins/agent"
_COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def made(builds: Callable[[str], Builds]) -> Builds:
    """A namespace with what a pod of the webhook needs."""
    return builds("unconfined")


def _pod(made: Builds) -> Object:
    """The demo's pod with the sidecar, after the Jenkins plugin has added the workspace."""
    objects = render(made.namespace.name, {
        "image": {"registry": made.registry.host, "tag": made.registry.tag},
        "cluster": {"kind": made.kind},
        "store": {"url": made.store.url},
        "registry": {"host": made.registry.host, "insecure": True},
        "webhook": {"enabled": True},
    })  # fmt: skip
    settings = [one for one in objects if one["metadata"]["name"] == "buildsvc-registry"]
    made.namespace.apply(made.store.secret(), *settings)
    pod: Object = yaml.safe_load((_DEMO / "pod.yaml").read_text())
    pod["metadata"] |= {"name": "demo", "namespace": made.namespace.name}
    spec = pod["spec"]
    compiler, step = spec["containers"]
    compiler["image"] = f"{made.registry.host}/base/golang:latest"
    step["image"] = f"{made.registry.host}/buildsvc-step:{made.registry.tag}"
    spec["volumes"] = [{"name": "workspace-volume", "emptyDir": {}}]
    for container in spec["containers"]:
        container["volumeMounts"] = [{"name": "workspace-volume", "mountPath": _WORKSPACE}]
    injection = inject(pod, parse_template(webhook_template(objects)))
    assert injection.pod is not None, injection.reason
    return injection.pod


def _ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def test_the_demo_is_compiled_built_and_runs(made: Builds) -> None:
    namespace, registry = made.namespace, made.registry
    namespace.apply(_pod(made))
    namespace.wait("demo", _ready, "the demo's pod is ready")

    def run(container: str, script: str, given: str | None = None) -> str:
        shell = ["sh", "-euc", f"cd {_WORKSPACE}; {script}"]
        options = ["--stdin"] if given is not None else []
        return namespace.run(
            "exec", "demo", f"--container={container}", *options, "--", *shell, given=given
        )

    for name in ("Dockerfile", "go.mod", "main.go", "main_test.go"):
        run("golang", f"cat >{name}", (_DEMO / name).read_text())
    # As the Jenkinsfile says it.
    run("golang", "CGO_ENABLED=0 go test ./...")
    run(
        "golang",
        f'CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.commit={_COMMIT}" -o web .',
    )
    repository = f"{namespace.name}/web"
    said = run(
        "image-build",
        f"buildsvc image-build --repository={registry.host}/{repository} --version=1 --context=. "
        "--registry-insecure 2>&1",
    )
    assert "is in the registry" in said
    # The pod ends as Jenkins has it end; the sidecar publishes meanwhile.
    namespace.run("delete", "pod", "demo", "--wait=true")
    assert [one["number"] for one in made.store.generations()] == [1], said
    namespace.apply({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {
            "containers": [{
                "name": "web",
                "image": f"{registry.host}/{repository}:1",
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
            }],
        },
    })  # fmt: skip
    served = namespace.wait("web", _ready, "the demo serves")
    with urlopen(f"http://{served['status']['podIP']}:8080/version", timeout=10) as answer:
        assert answer.read().decode().strip() == _COMMIT
