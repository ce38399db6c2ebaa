"""GitHub's files: linter, schemas, what the runner makes of the action, the wait for a cache."""

from __future__ import annotations

import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from buildsvc.ci import system_of
from buildsvc.imagebuild.results import as_outputs
from tests.unit.pipelines.kubelet import environment
from tests.unit.pipelines.places import HOSTILE, PIPELINES, checked, checkers, document, values_of
from tests.unit.pipelines.recorder import Recorder

GITHUB = PIPELINES / "github"
WAIT = GITHUB / "wait_for_cache.py"


def action() -> dict[str, Any]:
    found = document(GITHUB / "action.yml")
    assert isinstance(found, dict)
    return found


def repository(directory: Path, workflow: str) -> Path:
    """Return a repository with the action and a workflow, where actionlint looks for them."""
    (directory / ".github" / "workflows").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", directory], check=True)
    shutil.copytree(GITHUB, directory / "action")
    text, count = re.subn(r"uses: platform/buildsvc/\S+", "uses: ./action", workflow)
    assert count == 1
    path = directory / ".github" / "workflows" / "image.yml"
    path.write_text(text)
    return path


def test_actionlint_finds_nothing(tmp_path: Path) -> None:
    path = repository(tmp_path, (GITHUB / "image.yml").read_text())
    found = checked(checkers() / "actionlint", "-no-color", path, cwd=tmp_path)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("registry: ${{", "registri: ${{", "registri"),
        ("steps.build.outputs.digest", "steps.build.outputs.digset", "digset"),
        ("github.event_name", "github.event_nam", "event_nam"),
    ],
)
def test_actionlint_finds_what_is_wrong(
    before: str, after: str, complaint: str, tmp_path: Path
) -> None:
    text = (GITHUB / "image.yml").read_text()
    assert before in text
    path = repository(tmp_path, text.replace(before, after))
    found = checked(checkers() / "actionlint", "-no-color", path, cwd=tmp_path)
    assert found.returncode == 1
    assert complaint in found.stdout


@pytest.mark.parametrize(
    ("schema", "name"),
    [("vendor.github-workflows", "image.yml"), ("vendor.github-actions", "action.yml")],
)
def test_the_schemas_hold(schema: str, name: str) -> None:
    program = checkers() / "venv" / "bin" / "check-jsonschema"
    found = checked(program, "--builtin-schema", schema, GITHUB / name)
    assert found.returncode == 0, found.stdout


def test_no_script_has_an_expression_in_it() -> None:
    scripts = [*values_of(action(), "run"), *values_of(document(GITHUB / "image.yml"), "run")]
    assert scripts
    assert not [text for text in scripts if "${{" in text]


@pytest.mark.parametrize("text", HOSTILE)
def test_an_input_is_only_a_value(recorder: Recorder, text: str) -> None:
    """As the runner does: expressions in the step's variables, the script as a file for `sh -e`."""
    step = action()["runs"]["steps"][0]
    given = {name: one.get("default", "") for name, one in action()["inputs"].items()}
    given |= {"repository": "registry.example/app", "labels": f"branch={text}"}
    variables = {
        name: re.sub(r"\$\{\{ inputs\.([a-z-]+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }
    script = recorder.work / "script.sh"
    script.write_text(step["run"])
    call = recorder.run(["sh", "-e", str(script)], variables)
    assert call.arguments == ["image-build", "--registry=", "--registry-secret="]
    settings = call.settings
    assert settings.label == (f"branch={text}",)
    assert settings.version == "{short_commit}"


@pytest.mark.parametrize("branch", HOSTILE)
def test_the_pod_is_told_the_branch(branch: str) -> None:
    """Of what the kubelet makes of the container's variables the sidecar gets copies."""
    workflow = document(GITHUB / "image.yml")
    told = workflow["jobs"]["image"]["container"]["env"]
    values = {
        "github.ref": f"refs/heads/{branch}",
        "github.base_ref": "",
        "github.event_name": "push",
        "github.repository": "team/web",
    }
    entries = [
        {"name": name, "value": values[text.removeprefix("${{ ").removesuffix(" }}")]}
        for name, text in told.items()
    ]
    found = environment(entries)
    system = system_of(found)
    assert system is not None
    fact = system.tells("branch", found)
    assert fact is not None
    assert (fact.value, fact.kind) == (branch, "")


def test_outputs_are_those_of_the_step() -> None:
    class Everything:
        """A result with all texts empty."""

        digest = image = reference = ""
        references: tuple[str, ...] = ()

    written = {line.partition("=")[0] for line in as_outputs(Everything()).splitlines()}  # type: ignore[arg-type]
    for output in action()["outputs"].values():
        assert (
            output["value"].removeprefix("${{ steps.build.outputs.").removesuffix(" }}") in written
        )


def test_both_scale_sets_use_the_template_of_jobs() -> None:
    template = yaml.safe_load(document(GITHUB / "hook-template.yaml")["data"]["pod.yaml"])
    assert template["metadata"]["annotations"]["buildsvc.io/inject"] == "true"
    # The hook would replace its own by these.
    assert "initContainers" not in template["spec"]
    for name in ("scale-set.yaml", "scale-set-forks.yaml"):
        (runner,) = document(GITHUB / name)["template"]["spec"]["containers"]
        variables = {one["name"]: one["value"] for one in runner["env"]}
        assert variables["ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE"] == "/etc/buildsvc/pod.yaml"
        assert variables["ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER"] == "true"


def span(kind: str, begin: float, end: float | None, outcome: str = "ok") -> dict[str, Any]:
    return {"kind": kind, "begin": begin, "end": end, "outcome": outcome if end is not None else ""}


BUILD = span("build", 1, 9)
PUBLISHED = [BUILD, span("checkpoint", 9.1, 9.5), span("publish", 9.5, 12)]


@contextmanager
def sidecar(timelines: list[list[dict[str, Any]]]) -> Iterator[str]:
    """Serve a status for each request; the last one for all further ones."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            timeline = timelines.pop(0) if len(timelines) > 1 else timelines[0]
            body = json.dumps({"schema": 1, "timeline": timeline}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/status"
        finally:
            server.shutdown()
            thread.join()


def waited(seconds: str, url: str) -> subprocess.CompletedProcess[str]:
    code = (
        WAIT.read_text()
        .replace("http://127.0.0.1:8378/status", url)
        .replace("sleep(1)", "sleep(0.01)")
    )
    return checked(sys.executable, "-I", "-c", code, seconds)


@pytest.mark.parametrize(
    ("timeline", "missing"),
    [
        ([span("build", 1, None)], "a build"),
        ([BUILD], "checkpoint"),
        ([span("checkpoint", 0.1, 0.5), span("publish", 0.5, 3), BUILD], "checkpoint"),
        ([BUILD, span("checkpoint", 9.1, None)], "checkpoint"),
        ([BUILD, span("checkpoint", 9.1, 9.5)], "publish"),
        ([BUILD, span("checkpoint", 9.1, 9.5), span("publish", 9.5, 12, "failed")], "publish"),
    ],
)
def test_the_wait_ends_with_its_time(timeline: list[dict[str, Any]], missing: str) -> None:
    with sidecar([timeline]) as url:
        found = waited("0.05", url)
    assert found.returncode == 0
    assert f"({missing})" in found.stderr


@pytest.mark.parametrize("timeline", [PUBLISHED, []])
def test_the_wait_ends_with_the_publication(timeline: list[dict[str, Any]]) -> None:
    with sidecar([[BUILD], [BUILD, span("checkpoint", 9.1, 9.5)], timeline]) as url:
        found = waited("60", url)
    assert (found.returncode, found.stderr) == (0, "wait-for-cache: the cache is in the store\n")


def test_the_wait_fails_no_job_that_has_no_sidecar() -> None:
    with sidecar([[]]) as url:
        gone = url
    found = waited("60", gone)
    assert found.returncode == 0
    assert "the sidecar does not say" in found.stderr


def test_the_wait_says_what_it_expects() -> None:
    found = waited("soon", "http://127.0.0.1:1/")
    assert found.returncode == 64
    assert "expected a number of seconds, found ['soon']" in found.stderr
