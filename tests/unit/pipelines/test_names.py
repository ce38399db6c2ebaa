"""What files and pages name is there: settings, flags, annotations, files; and the scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from buildsvc.imagebuild.settings import PASSWORD, PREFIX
from buildsvc.imagebuild.settings import SETTINGS as STEP
from buildsvc.webhook.annotations import CHOICES, CONTAINERS, INJECT
from sidecar.settings import SETTINGS as SIDECAR
from tests.unit.pipelines.places import PIPELINES, TREE, checked, values_of

PAGES = TREE / "docs" / "pipelines"
#: Those of the injection webhook, and its label of namespaces.
ANNOTATIONS = {INJECT.removeprefix("buildsvc.io/"), CONTAINERS.removeprefix("buildsvc.io/")}
ANNOTATIONS |= {*CHOICES, "injection"}
FILES = sorted(
    path
    for path in [*PIPELINES.rglob("*"), *PAGES.glob("*.md")]
    if path.is_file() and path.name != "web"
)


def test_there_are_files() -> None:
    assert {path.parent.name for path in FILES} >= {"argo", "demo", "github", "tekton", "vars"}
    assert {path.stem for path in PAGES.glob("*.md")} >= {
        *("README", "argo", "github", "gitlab", "jenkins", "tekton")
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_variables_are_settings(path: Path) -> None:
    for name in re.findall(r"BUILDSVC_[A-Z][A-Z_]*[A-Z](?![A-Z_])", path.read_text()):
        if name.startswith(PREFIX):
            assert name == PASSWORD or name.removeprefix(PREFIX).lower() in STEP, name
        else:
            assert name.removeprefix("BUILDSVC_").lower() in SIDECAR, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_annotations_are_the_webhooks(path: Path) -> None:
    found = set(re.findall(r"buildsvc\\{0,2}\.io/([a-z-]+)", path.read_text()))
    assert found <= ANNOTATIONS


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_flags_of_the_step_are_options(path: Path) -> None:
    for line in path.read_text().splitlines():
        if re.search(r'image-build "?--|^ *- "?--|^ *args: \[', line):
            for flag in re.findall(r"--([a-z][a-z-]+)", line):
                assert flag.replace("-", "_") in STEP, f"{line}: --{flag}"


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.name)
def test_links_of_the_pages_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.name)
def test_pages_say_what_checked_the_files(path: Path) -> None:
    text = path.read_text()
    assert "## Checked by" in text
    assert "Not tried" in text


def scripts() -> Iterator[tuple[str, str, str]]:
    """Yield where each embedded script is, its shell, and its text."""
    for path in sorted(PIPELINES.rglob("*.y*ml")):
        where = f"{path.parent.name}/{path.name}"
        for tree in yaml.safe_load_all(path.read_text().replace("tags: $[[ inputs.tags ]]", "")):
            for text in [*values_of(tree, "script"), *values_of(tree, "run")]:
                if isinstance(text, list):
                    yield where, "bash", "\n".join(text)
                elif isinstance(text, str):
                    yield where, "sh", text
            for command in values_of(tree, "command"):
                if command[:2] == ["sh", "-c"]:
                    yield where, "sh", command[2]
    for path in (PIPELINES / "jenkins" / "Jenkinsfile", PIPELINES / "demo" / "Jenkinsfile"):
        for text in re.findall(r"\bsh '(.+)'$", path.read_text(), re.MULTILINE):
            yield f"{path.parent.name}/Jenkinsfile", "sh", text


SCRIPTS = list(scripts())


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 12
    assert {shell for _, shell, _ in SCRIPTS} == {"sh", "bash"}


@pytest.mark.parametrize(("where", "shell", "text"), SCRIPTS)
def test_shellcheck_finds_nothing(where: str, shell: str, text: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(text)
    # 2154: variables come from outside.
    found = checked("shellcheck", "--shell", shell, "--exclude", "2154", script)
    assert found.returncode == 0, f"{where}: {found.stdout}"


def test_shellcheck_finds_what_is_wrong(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("git fetch -- $URL\n")
    assert "SC2086" in checked("shellcheck", "--shell", "sh", script).stdout


def test_no_file_names_a_secret_s_value() -> None:
    """Passwords come from credentials of the system, secrets as files, or variables by name."""
    for path in FILES:
        if path.suffix in (".yaml", ".yml", ".toml", ".groovy") or path.name == "Jenkinsfile":
            for line in path.read_text().splitlines():
                assert not re.search(r"--(registry-)?password", line), line
