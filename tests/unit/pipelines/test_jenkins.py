"""Jenkins' files: compiled and run by Groovy, in the version that Jenkins has in it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from buildsvc.ci import system_of
from buildsvc.imagebuild.settings import SETTINGS
from tests.unit.pipelines.kubelet import environment
from tests.unit.pipelines.places import HOSTILE, PIPELINES, document
from tests.unit.pipelines.recorder import Recorder

JENKINS = PIPELINES / "jenkins"
GROOVY = "/usr/share/java/groovy-all.jar"
RUNNER = Path(__file__).with_name("jenkins.groovy")


def groovy(directory: Path, wanted: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Run a step or a Jenkinsfile. Returns what it called, and its result or error."""
    for name in ("workspace", "workspace@tmp"):
        (directory / name).mkdir(exist_ok=True)
    command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8"]
    command += ["-Dsun.jnu.encoding=UTF-8", "-cp", GROOVY, "groovy.ui.GroovyMain", str(RUNNER)]
    command += [str(JENKINS / "vars"), str(directory), json.dumps({"env": {}, **wanted})]
    environ = {"PATH": path or os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(answer, dict)
    return answer


def calls(answer: dict[str, Any], step: str) -> list[Any]:
    return [one["values"] for one in answer["calls"] if one["step"] == step]


def built(recorder: Recorder, directory: Path, env: dict[str, str], **options: object) -> Any:
    answer = groovy(
        directory, {"call": "imageBuild", "env": env, "options": options}, recorder.path
    )
    assert "error" not in answer, answer
    return answer, recorder.call()


def test_names_are_only_names(recorder: Recorder, tmp_path: Path) -> None:
    answer, call = built(
        recorder,
        tmp_path,
        {"BRANCH_NAME": HOSTILE[0]},
        repository="registry.example/app",
        labels=[f"name={name}" for name in HOSTILE],
        git={"GIT_URL": HOSTILE[1], "GIT_COMMIT": None},
    )
    assert call.arguments == ["image-build"]
    assert call.variables["BRANCH_NAME"] == HOSTILE[0]
    assert call.variables["GIT_URL"] == HOSTILE[1]
    assert call.settings.label == tuple(f"name={name}" for name in HOSTILE)
    assert answer["result"] == {
        "digest": "sha256:1",
        "name": "r/a:1",
        "reference": "r/a:1@sha256:1",
    }
    assert calls(answer, "sh") == [
        [{"label": "buildsvc image-build", "script": "exec buildsvc image-build"}]
    ]


def test_the_step_understands_every_option(recorder: Recorder, tmp_path: Path) -> None:
    options = {
        "repository": "app",
        "registry": "registry.example",
        "registryCa": "/ca.pem",
        "version": "1",
        "context": "src",
        "dockerfile": "Dockerfile.web",
        "target": "final",
        "sbom": True,
        "provenance": "max",
        "push": True,
        "noCache": False,
        "wait": "30s",
        "tags": ["latest", "{branch}"],
        "platforms": ["linux/amd64"],
        "buildArgs": ["A=1", "B=2 3"],
        "secrets": ["id=npm,src=/npmrc"],
        "ssh": ["default=/key"],
        "labels": ["a=b"],
        "annotations": ["a=b"],
        "outputs": ["type=oci,dest=i.tar"],
        "cacheFrom": ["type=registry,ref=a"],
        "cacheTo": ["type=registry,ref=a"],
        "frontendOpts": ["a=b"],
        "credentials": "registry",
        "container": "other",
    }
    answer, call = built(recorder, tmp_path, {}, **options)
    settings = call.settings
    assert settings.build_arg == ("A=1", "B=2 3")
    assert (settings.no_cache, settings.push, settings.registry_user) == (False, True, "robot")
    assert call.variables["BUILDSVC_IMAGE_REGISTRY_PASSWORD"] == "secret of registry"
    assert calls(answer, "container") == [["other"]]
    given = {name.removeprefix("BUILDSVC_IMAGE_").lower() for name in call.variables}
    assert len(given & set(SETTINGS)) == len(options) - len({"credentials", "container"}) + len(
        {"registry_user", "dotenv"}
    )


@pytest.mark.parametrize(
    ("step", "options", "complaint"),
    [
        ("imageBuild", {"repo": "a"}, "imageBuild: no such option: repo"),
        ("imageBuild", {"tags": "latest"}, "tags: expected a list such as ['latest']"),
        ("imageBuildPod", {"cache": "a"}, "imageBuildPod: no such option: cache"),
        ("imageBuildPod", {}, "expected gitUrl in a multibranch project, or cacheKey"),
    ],
)
def test_wrong_options_are_told(
    step: str, options: dict[str, object], complaint: str, tmp_path: Path
) -> None:
    assert complaint in groovy(tmp_path, {"call": step, "options": options})["error"]


def test_the_jenkinsfiles_run(recorder: Recorder, tmp_path: Path) -> None:
    compiler = recorder.programs / "go"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    for path, agent in (
        (JENKINS / "Jenkinsfile", "yaml"),
        (PIPELINES / "demo" / "Jenkinsfile", "yamlFile"),
    ):
        env = {"BRANCH_NAME": "main", "GIT_COMMIT": "0123"}
        answer = groovy(tmp_path, {"file": str(path), "env": env}, recorder.path)
        assert "error" not in answer, answer
        assert recorder.call().arguments == ["image-build"]
        assert answer["build"]["description"] == "r/a:1@sha256:1"
        assert len(calls(answer, agent)) == 1
        assert [len(one) for one in calls(answer, "stage")] == [1, 1]


@pytest.mark.parametrize("fork", [True, False])
def test_the_pod_is_told_the_branch(tmp_path: Path, *, fork: bool) -> None:
    env = {"BRANCH_NAME": f"{HOSTILE[0]}$$(x)", "CHANGE_FORK": "them" if fork else ""}
    answer = groovy(tmp_path, {"file": str(JENKINS / "Jenkinsfile"), "env": env})
    # There is no Go here, so it ends after the agent was described.
    assert calls(answer, "namespace") == [["builds-forks" if fork else "builds"]]
    ((text,),) = calls(answer, "yaml")
    pod = json.loads(text)
    assert pod["metadata"]["annotations"]["buildsvc.io/inject"] == "true"
    names = {one["name"]: one for one in pod["spec"]["containers"]}
    assert set(names) == {"image-build", "golang"}
    found = environment(names["image-build"]["env"])
    system = system_of(found)
    assert system is not None
    told = system.tells("branch", found)
    assert told is not None
    assert told.value == env["BRANCH_NAME"]


@pytest.mark.parametrize(
    "path", [JENKINS / "pod-with-sidecar.yaml", PIPELINES / "demo" / "pod.yaml"]
)
def test_steps_can_run_in_the_containers(path: Path) -> None:
    """A container that steps run in ends at SIGTERM: only then is the sidecar told."""
    for container in document(path)["spec"]["containers"]:
        command = container["command"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            # The trap is set when the loop runs, which its child shows.
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while not children.read_text():
                assert process.poll() is None
            (child,) = children.read_text().split()
            process.terminate()
            assert process.wait(timeout=10) == 0
            os.kill(int(child), 9)
