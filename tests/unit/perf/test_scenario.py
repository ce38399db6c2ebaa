import re
from pathlib import Path

import pytest

from perf.project import Project, scenario
from perf.scenario import COMPARED, SCENARIOS

_BASES = {"BASE": "base:1", "RUNTIME": "runtime:1"}
#: In a row, without a repetition.
_STATES = 12


def _content(project: Project) -> dict[str, str]:
    files = (path for path in project.context.rglob("*") if path.is_file())
    return {str(path.relative_to(project.context)): path.read_text() for path in files}


def _instructions(dockerfile: str) -> list[str]:
    lines = dockerfile.replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", SCENARIOS)
def test_line_changes_exactly_one_line(name: str, tmp_path: Path) -> None:
    project = scenario(name, tmp_path, _BASES)
    file = project.context / project.change.file
    seen = []
    for revision in (1, 2, 12):
        project.revise(revision)
        seen.append(file.read_text().splitlines())

    for before, after in ((seen[0], seen[1]), (seen[1], seen[2])):
        assert len(before) == len(after)
        assert sum(old != new for old, new in zip(before, after, strict=True)) == 1
    assert "12" in file.read_text()


@pytest.mark.parametrize("change", ["line", "dependency", "dockerfile"])
@pytest.mark.parametrize("name", COMPARED)
def test_every_revision_differs(name: str, change: str, tmp_path: Path) -> None:
    project = scenario(name, tmp_path, _BASES, change=change)
    original = _content(project)
    states = []
    for revision in range(1, _STATES + 1):
        project.revise(revision)
        states.append(_content(project))

    changed = {file for state in states for file in state if state[file] != original[file]}
    assert project.change.file in changed
    assert len({tuple(sorted(state.items())) for state in states}) == _STATES
    assert not any(state == original for state in states)


@pytest.mark.parametrize("change", ["nothing", "base"])
@pytest.mark.parametrize("name", COMPARED)
def test_no_file_changes(name: str, change: str, tmp_path: Path) -> None:
    project = scenario(name, tmp_path, _BASES, change=change)
    original = _content(project)

    project.revise(1)

    assert _content(project) == original


@pytest.mark.parametrize("name", ["python", "go", "node", "java", "monorepo"])
def test_the_project_was_written_with_the_first_release(name: str, tmp_path: Path) -> None:
    project = scenario(name, tmp_path, _BASES, change="dependency")
    original = _content(project)

    project.revise(0)

    # A lock of pip-compile's has a hash of each file of a release, a table of releases one.
    for file, text in _content(project).items():
        lost = set(original[file].splitlines()) - set(text.splitlines())
        assert all("--hash=" in line for line in lost), file


@pytest.mark.parametrize("name", COMPARED)
def test_each_stage_that_runs_something_begins_with_the_instruction_that_changes(
    name: str, tmp_path: Path
) -> None:
    for mounts in (True, False):
        project = scenario(name, tmp_path / str(mounts), _BASES, mounts=mounts)
        text = "\n".join(_instructions(project.dockerfile.read_text()))
        bases = set(re.findall(r"^ARG (\w+)=base/", text, re.MULTILINE))
        assert bases == set(SCENARIOS[name].bases)
        for stage in re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[1:]:
            lines = stage.splitlines()
            # A stage on another stage runs again with it.
            if lines[0].startswith("FROM ${"):
                assert lines[1] == "ENV IMAGE_REVISION=0", lines[0]


@pytest.mark.parametrize("name", COMPARED)
def test_the_plain_dockerfile_is_one_for_every_builder(name: str, tmp_path: Path) -> None:
    plain = scenario(name, tmp_path / "plain", _BASES, mounts=False)
    usual = scenario(name, tmp_path / "usual", _BASES)

    for instruction in _instructions(plain.dockerfile.read_text()):
        assert not re.search(r"--(mount|link|network|security|parents|exclude)\b|<<", instruction)
    # Many small files have no cache of a package's kind.
    mounted = "--mount=type=cache" in usual.dockerfile.read_text()
    assert mounted == (name != "manyfiles")
    assert {path.name for path in plain.context.glob("Dockerfile*")} == {
        "Dockerfile",
        "Dockerfile.plain",
    }


@pytest.mark.parametrize("name", COMPARED)
def test_dockerfiles_are_no_part_of_the_context(name: str) -> None:
    ignored = (SCENARIOS[name].source / ".dockerignore").read_text().splitlines()

    assert {"Dockerfile*", ".dockerignore"} <= set(ignored)


def test_the_monorepo_s_images_are_targets_everywhere(tmp_path: Path) -> None:
    project = scenario("monorepo", tmp_path, _BASES)
    baked = (project.context / "docker-bake.hcl").read_text()

    for file in ("Dockerfile", "Dockerfile.plain"):
        text = (project.context / file).read_text()
        stages = re.findall(r"^FROM (?:go|python)-service AS (\w+)$", text, re.MULTILINE)
        assert tuple(stages) == project.targets
    matrix = re.search(r"image = \[(.*?)\]", baked, re.DOTALL)
    groups = re.findall(r'group "(?:go|python)" \{ targets = \[(.*)\] \}', baked)
    assert matrix is not None
    assert tuple(re.findall(r"\w+", matrix[1])) == project.targets
    assert tuple(re.findall(r"\w+", " ".join(groups))) == project.targets


def test_no_registry_is_named() -> None:
    for name in COMPARED:
        for path in SCENARIOS[name].source.rglob("*"):
            if path.is_file():
                text = path.read_text()
                assert 'resolved"' not in text, path
                hosts = r"registry\.npmjs|files\.pythonhosted|pypi\.org|proxy\.golang|repo1?\.maven"
                assert not re.search(hosts, text), path
