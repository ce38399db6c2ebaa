"""GitLab's files: the schema, what the inputs become, and what the runner lets a job ask for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.pipelines.places import HOSTILE, PIPELINES, checked, checkers
from tests.unit.pipelines.recorder import Recorder

GITLAB = PIPELINES / "gitlab"
COMPONENT = GITLAB / "templates" / "image-build.yml"


def halves() -> tuple[dict[str, Any], str]:
    """Return the inputs of the component, and the text that they are pasted into."""
    header, body = COMPONENT.read_text().split("\n---\n")
    return yaml.safe_load(header)["spec"]["inputs"], body


def included(**given: object) -> dict[str, Any]:
    """Return the job as GitLab makes it: inputs as text, then YAML."""
    inputs, body = halves()
    values = {name: one["default"] for name, one in inputs.items()} | given

    def text(found: re.Match[str]) -> str:
        value = values[found[1]]
        return str(value) if isinstance(value, str) else str(list(value)).replace("'", '"')

    jobs = yaml.safe_load(re.sub(r"\$\[\[ inputs\.([a-z-]+) \]\]", text, body))
    assert isinstance(jobs, dict)
    return jobs


def valid(path: Path) -> tuple[int, str]:
    program = checkers() / "venv" / "bin" / "check-jsonschema"
    schema = ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")
    found = checked(program, *schema, path)
    return found.returncode, found.stdout


def test_the_schema_holds(tmp_path: Path) -> None:
    header = tmp_path / "header.yml"
    header.write_text(COMPONENT.read_text().split("\n---\n")[0])
    body = tmp_path / "body.yml"
    body.write_text(yaml.safe_dump(included()))
    for path in (header, body, GITLAB / ".gitlab-ci.yml"):
        code, said = valid(path)
        assert code == 0, said


def test_the_schema_finds_what_is_wrong(tmp_path: Path) -> None:
    job = included()
    job["image-build"]["artifacts"]["reports"]["dotenv"] = {"path": "x"}
    broken = tmp_path / "broken.yml"
    broken.write_text(yaml.safe_dump(job))
    code, said = valid(broken)
    assert code == 1
    assert "dotenv" in said


@pytest.mark.parametrize("branch", HOSTILE)
def test_a_branch_is_only_a_name(recorder: Recorder, branch: str) -> None:
    """As the runner does: variables are exported, and the script's lines are of a shell."""
    job = included()["image-build"]
    variables = job["variables"] | {"CI_COMMIT_BRANCH": branch, "CI_PROJECT_PATH": "team/web"}
    call = recorder.run(["bash", "-eo", "pipefail", "-c", "\n".join(job["script"])], variables)
    assert call.arguments == ["image-build", "--registry="]
    settings = call.settings
    assert settings.repository == "{repository}"
    assert call.variables["CI_COMMIT_BRANCH"] == branch
    assert settings.dotenv is not None
    assert settings.dotenv.name == job["artifacts"]["reports"]["dotenv"]


def test_every_input_arrives(recorder: Recorder) -> None:
    job = included(
        **{
            "job": "web",
            "more-tags": "latest,{branch}",
            "registry": "registry.example",
            "build-args": "A=b c",
            "tags": ["k8s"],
        }
    )["web"]
    assert job["tags"] == ["k8s"]
    call = recorder.run(["bash", "-c", "\n".join(job["script"])], job["variables"])
    settings = call.settings
    assert settings.tag == ("latest", "{branch}")
    assert settings.build_arg == ("A=b c",)
    assert settings.registry == "registry.example"
    inputs, body = halves()
    assert set(inputs) == set(re.findall(r"\$\[\[ inputs\.([a-z-]+) \]\]", body))


def test_no_script_has_an_input_in_it() -> None:
    assert "$[[" not in str(yaml.safe_load(halves()[1])["$[[ inputs.job ]]"]["script"])


def test_the_runner_lets_a_job_ask_for_the_sidecar_and_no_more() -> None:
    runners = tomllib.loads((GITLAB / "config.toml").read_text())["runners"]
    assert len(runners) == 2
    asked = [
        value
        for name, value in included()["image-build"]["variables"].items()
        if name.startswith("KUBERNETES_POD_ANNOTATIONS_")
    ]
    for runner in runners:
        allowed = re.compile(runner["kubernetes"]["pod_annotations_overwrite_allowed"])
        assert all(allowed.match(one) for one in asked)
        for refused in ("buildsvc.io/trust-domain=protected", "x.example/buildsvc.io/inject=true"):
            assert not allowed.search(refused)


def test_forks_have_a_namespace_of_their_own() -> None:
    runners = tomllib.loads((GITLAB / "config.toml").read_text())["runners"]
    assert len({runner["kubernetes"]["namespace"] for runner in runners}) == 2
