"""Tekton's files: what Tekton's own validation says, and what hostile names become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildsvc.ci import system_of
from tests.unit.pipelines.kubelet import environment, expanded
from tests.unit.pipelines.places import HOSTILE, PIPELINES, checked, checkers, document
from tests.unit.pipelines.recorder import Recorder

TEKTON = PIPELINES / "tekton"
GIT = ("git-branch", "git-tag", "pull-request", "target-branch", "git-commit", "git-url")


def replaced(text: str, parameters: dict[str, str]) -> str:
    """Replace Tekton's own references: one pass, unknown ones stay."""
    names = {f"params.{name}": value for name, value in parameters.items()}
    names |= {"workspaces.registry.path": "", "workspaces.source.path": "/workspace/source"}
    names |= {
        "context.taskRun.name": "run-7",
        "step.results.IMAGE_DIGEST.path": "/results/IMAGE_DIGEST",
    }
    return re.sub(r"\$\(([a-zA-Z_.-]+)\)", lambda found: names.get(found[1], found[0]), text)


def parameters_of(spec: dict[str, Any], given: dict[str, str]) -> dict[str, str]:
    defaults = {
        one["name"]: one.get("default", "") for one in spec["params"] if one["name"] != "args"
    }
    return defaults | {"repository": "registry.example/app"} | given


def step_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = document(TEKTON / name)["spec"]
    return spec, spec["steps"][0] if "steps" in spec else spec


def called(recorder: Recorder, name: str, args: list[str], **given: str) -> Any:
    """Run a step as Tekton and the kubelet do."""
    spec, step = step_of(name)
    parameters = parameters_of(spec, {key.replace("_", "-"): value for key, value in given.items()})
    entries = [{**one, "value": replaced(one["value"], parameters)} for one in step["env"]]
    variables = environment(entries)
    words: list[str] = []
    for word in step["args"]:
        words += args if word == "$(params.args[*])" else [word]
    words = [expanded(replaced(word, parameters), variables) for word in words]
    if "script" in step:
        script = recorder.work / "script"
        script.write_text(replaced(step["script"], parameters))
        script.chmod(0o755)
        return recorder.run([str(script), *words], variables)
    return recorder.run([*step["command"], *words], variables)


def test_tekton_accepts_the_files() -> None:
    found = checked(checkers() / "tekton-check", *sorted(TEKTON.glob("*.yaml")))
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("steps:", "stepz:", "stepz"),
        ("$(params.target)", "$(params.targte)", "targte"),
        ("name: image-build\n      image:", "name: image-build\n      imagee:", "imagee"),
    ],
)
def test_the_check_finds_what_is_wrong(
    before: str, after: str, complaint: str, tmp_path: Path
) -> None:
    text = (TEKTON / "task.yaml").read_text()
    assert before in text
    broken = tmp_path / "task.yaml"
    broken.write_text(text.replace(before, after))
    found = checked(checkers() / "tekton-check", broken)
    assert found.returncode == 1
    assert complaint in found.stdout


@pytest.mark.parametrize("name", ["task.yaml", "stepaction.yaml", "task-with-sidecar.yaml"])
@pytest.mark.parametrize("branch", HOSTILE)
def test_a_branch_is_only_a_name(recorder: Recorder, name: str, branch: str) -> None:
    call = called(recorder, name, ["--no-cache"], git_branch=branch)
    results = "/results" if name == "stepaction.yaml" else "/tekton/results"
    empty = ["--registry=", "--registry-ca=", "--registry-secret="]
    assert sorted(call.arguments) == sorted(
        ["image-build", f"--tekton-results={results}", *empty, "--no-cache"]
    )
    system = system_of(call.variables)
    assert system is not None
    told = system.tells("branch", call.variables)
    assert told is not None
    assert (told.value, told.kind) == (branch, "")


@pytest.mark.parametrize("name", ["task.yaml", "stepaction.yaml", "task-with-sidecar.yaml"])
@pytest.mark.parametrize("which", GIT)
def test_no_name_becomes_the_default_branch(recorder: Recorder, name: str, which: str) -> None:
    """Else a branch could write to the default branch's cache."""
    given = {which.replace("-", "_"): "$(TEKTON_DEFAULT_BRANCH)$(BUILDSVC_IMAGE_REGISTRY)"}
    call = called(recorder, name, [], **given)
    variable = next(text for text in call.variables.values() if "DEFAULT_BRANCH" in text)
    assert variable == "$(TEKTON_DEFAULT_BRANCH)$(BUILDSVC_IMAGE_REGISTRY)"


def test_the_sidecar_in_the_task_is_told_the_same() -> None:
    spec, step = step_of("task-with-sidecar.yaml")
    (sidecar,) = spec["sidecars"]
    told = [one for one in step["env"] if one["name"].startswith("TEKTON_")]
    assert sidecar["env"][: len(told)] == told


@pytest.mark.parametrize("name", ["task.yaml", "stepaction.yaml", "task-with-sidecar.yaml"])
def test_the_step_understands_every_parameter(recorder: Recorder, name: str) -> None:
    call = called(
        recorder,
        name,
        [],
        tags="latest,{branch}",
        registry="registry.example",
        registry_ca="/ca.pem",
        context="src",
        dockerfile="Dockerfile.web",
        target="final",
        platforms="linux/amd64,linux/arm64",
    )
    settings = call.settings
    assert settings.tag == ("latest", "{branch}")
    assert settings.platform == ("linux/amd64", "linux/arm64")
    assert (settings.context, settings.target, settings.registry) == (
        "src",
        "final",
        "registry.example",
    )
    # Empty, since the workspace is not bound: no secret.
    assert settings.registry_secret is None


def test_a_script_has_no_parameter_in_it() -> None:
    for path in TEKTON.glob("*.yaml"):
        for one in yaml.safe_load_all(path.read_text()):
            spec = one["spec"]
            for step in [spec, *spec.get("steps", [])]:
                assert "$(params" not in step.get("script", "")
                assert "$(context" not in step.get("script", "")


def test_results_are_those_that_chains_reads() -> None:
    for name in ("task.yaml", "stepaction.yaml", "task-with-sidecar.yaml"):
        spec = document(TEKTON / name)["spec"]
        assert {"IMAGE_URL", "IMAGE_DIGEST"} <= {one["name"] for one in spec["results"]}
