"""Argo's files: decoded into the fields of Argo's API, and what hostile names become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildsvc.ci import system_of
from tests.unit.pipelines.kubelet import environment
from tests.unit.pipelines.places import (
    HOSTILE,
    PIPELINES,
    TREE,
    checked,
    checkers,
    document,
    values_of,
)
from tests.unit.pipelines.recorder import Call, Recorder

ARGO = PIPELINES / "argo"
TEMPLATES = ("workflowtemplate.yaml", "workflowtemplate-with-sidecar.yaml")
CHECK = TREE / "tools" / "pipelines" / "argo_check.py"


def argo_check(*files: Path) -> tuple[int, str]:
    found = checked(checkers() / "venv" / "bin" / "python", CHECK, *files)
    return found.returncode, found.stdout


def template_of(name: str) -> dict[str, Any]:
    (template,) = document(ARGO / name)["spec"]["templates"]
    assert isinstance(template, dict)
    return template


def replaced(tree: Any, parameters: dict[str, str]) -> Any:
    """Replace Argo's references in every text, once."""
    if isinstance(tree, dict):
        return {name: replaced(value, parameters) for name, value in tree.items()}
    if isinstance(tree, list):
        return [replaced(value, parameters) for value in tree]
    if isinstance(tree, str):
        names = {f"inputs.parameters.{name}": value for name, value in parameters.items()}
        names["workflow.name"] = "web-image-x7k2p"
        return re.sub(r"\{\{([a-z.-]+)\}\}", lambda found: names.get(found[1], found[0]), tree)
    return tree


def made(name: str, **given: str) -> dict[str, Any]:
    """Return the template with parameters in it, as the pod is made of it."""
    template = template_of(name)
    parameters = {one["name"]: one.get("default", "") for one in template["inputs"]["parameters"]}
    parameters |= {
        "repository": "registry.example/app",
        "git-url": "https://git.example/team/app.git",
    }
    parameters |= {key.replace("_", "-"): value for key, value in given.items()}
    filled = replaced(template, parameters)
    assert isinstance(filled, dict)
    return filled


def test_argo_has_every_field() -> None:
    assert argo_check(*sorted(ARGO.glob("*.yaml"))) == (0, "")


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("outputs:", "outputz:", "outputz"),
        ("command: [buildsvc, image-build]", "command: buildsvc", "command"),
        ("secretName", "secretNam", "secretNam"),
        (
            "terminationGracePeriodSeconds: 630",
            "terminationGracePeriod: 630",
            "terminationGracePeriod",
        ),
        ("port: buildsvc-http}", "port: http}", "port"),
        ("mountPath: /run/buildsvc}", "mountpath: /run/buildsvc}", "mountPath"),
    ],
)
def test_the_check_finds_what_is_wrong(
    before: str, after: str, complaint: str, tmp_path: Path
) -> None:
    text = (ARGO / "workflowtemplate-with-sidecar.yaml").read_text()
    assert before in text
    broken = tmp_path / "broken.yaml"
    broken.write_text(text.replace(before, after))
    code, said = argo_check(broken)
    assert code == 1
    assert complaint in said


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("branch", HOSTILE)
def test_a_branch_is_only_a_name(recorder: Recorder, name: str, branch: str) -> None:
    template = made(name, git_branch=branch)
    container, annotations = template["container"], template["metadata"]["annotations"]
    variables = environment(container["env"], annotations)
    call = recorder.run([*container["command"], *container["args"]], variables)
    assert call.arguments == ["image-build", *container["args"]]
    system = system_of(call.variables)
    assert system is not None
    told = system.tells("branch", call.variables)
    assert told is not None
    assert (told.value, told.kind) == (branch, "")


def test_no_parameter_stands_in_the_patch_of_the_pod() -> None:
    """Argo pastes it in before the patch is read as YAML."""
    assert "{{" not in template_of("workflowtemplate-with-sidecar.yaml")["podSpecPatch"]


def test_no_script_takes_a_parameter() -> None:
    for path in ARGO.glob("*.yaml"):
        tree = document(path)
        assert not list(values_of(tree, "script"))
        assert "{{" not in str(list(values_of(tree, "command")))
        # A word of its own, behind the flag that it is the value of.
        for word in [word for words in values_of(tree, "args") for word in words]:
            assert "{{" not in word or re.fullmatch(r"--[a-z-]+=\{\{[a-z.-]+\}\}", word)


def test_the_sidecar_in_the_patch_is_told_the_same() -> None:
    template = made("workflowtemplate-with-sidecar.yaml", git_branch="$(BUILDSVC_STORE)")
    patch = yaml.safe_load(template["podSpecPatch"])
    (sidecar,) = patch["initContainers"]
    found = environment(sidecar["env"], template["metadata"]["annotations"])
    own = environment(template["container"]["env"], template["metadata"]["annotations"])
    told = {name: text for name, text in own.items() if name.startswith("TEKTON_GIT")}
    assert told["TEKTON_GIT_BRANCH"] == "$(BUILDSVC_STORE)"
    assert told.items() <= found.items()


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_step_understands_every_parameter(name: str) -> None:
    template = made(name, tags="latest", build_args="A=1\nB=2 3", registry="registry.example")
    container = template["container"]
    variables = environment(container["env"], template["metadata"]["annotations"])
    settings = Call([container["command"][1], *container["args"]], variables).settings
    assert (settings.build_arg, settings.registry) == (("A=1", "B=2 3"), "registry.example")
    files = [one["valueFrom"]["path"] for one in template["outputs"]["parameters"]]
    assert [str(settings.digest_file), str(settings.reference_file)] == files
