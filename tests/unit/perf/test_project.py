from pathlib import Path

import pytest

from perf.host import PerfError
from perf.project import MARKER, SCENARIOS, Change, own, scenario


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_scenario_changes_exactly_one_line(name: str, tmp_path: Path) -> None:
    project = scenario(name, tmp_path, "base:1")
    file = project.context / project.change.file
    seen = []
    for revision in (1, 2, 12):
        project.revise(revision)
        seen.append(file.read_text().splitlines())

    for before, after in ((seen[0], seen[1]), (seen[1], seen[2])):
        assert len(before) == len(after)
        assert sum(old != new for old, new in zip(before, after, strict=True)) == 1
    assert "12" in file.read_text()
    assert project.arguments == {"BASE": "base:1"}


def test_the_original_stays_as_it_is(tmp_path: Path) -> None:
    wanted = SCENARIOS["sample"]
    original = (wanted.source / wanted.change.file).read_bytes()

    scenario("sample", tmp_path, "b").revise(77)

    assert (wanted.source / wanted.change.file).read_bytes() == original


def test_a_missing_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")

    with pytest.raises(PerfError, match="no line matches"):
        Change("a.py", "^y = ", "y = {}").apply(tmp_path, 1)


def _context(tmp_path: Path) -> Path:
    context = tmp_path / "mine"
    (context / "src").mkdir(parents=True)
    (context / "Dockerfile").write_text("FROM scratch\n")
    (context / "src" / "a.go").write_text("package a\n")
    (context / ".git").mkdir()
    return context


def test_own_project_gets_one_comment_that_is_replaced(tmp_path: Path) -> None:
    context, scratch = _context(tmp_path), tmp_path / "scratch"
    scratch.mkdir()

    project = own(context, None, "src/a.go", scratch)
    project.revise(1)
    project.revise(2)

    text = (project.context / "src" / "a.go").read_text()
    assert text == "package a\n// buildsvc revision 2\n"
    assert (context / "src" / "a.go").read_text() == "package a\n"
    assert not (project.context / ".git").exists()
    assert project.dockerfile.read_text() == "FROM scratch\n"


def test_own_project_without_a_file_gets_a_marker(tmp_path: Path) -> None:
    context, scratch = _context(tmp_path), tmp_path / "scratch"
    scratch.mkdir()

    project = own(context, None, "", scratch)
    project.revise(3)

    assert (project.context / MARKER).read_text() == "buildsvc revision 3\n"


def test_own_project_that_is_wrong(tmp_path: Path) -> None:
    context = _context(tmp_path)

    with pytest.raises(PerfError, match="context"):
        own(tmp_path / "nowhere", None, "", tmp_path)
    with pytest.raises(PerfError, match="Dockerfile"):
        own(context, tmp_path / "no", "", tmp_path)
    with pytest.raises(PerfError, match="file to change"):
        own(context, None, "src/b.go", tmp_path)


def test_a_file_without_comments_cannot_be_changed(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"\xff\xfe")

    with pytest.raises(PerfError, match="no comment"):
        Change("data.bin").apply(tmp_path, 1)
