from pathlib import Path

import pytest

from perf.change import MARKER
from perf.host import PerfError
from perf.project import own, scenario
from perf.scenario import SCENARIOS

_BASES = {"BASE": "base:1", "RUNTIME": "runtime:1"}


def test_the_original_stays_as_it_is(tmp_path: Path) -> None:
    wanted = SCENARIOS["sample"]
    original = (wanted.source / wanted.changes["line"].file).read_bytes()

    scenario("sample", tmp_path, _BASES).revise(77)

    assert (wanted.source / wanted.changes["line"].file).read_bytes() == original


def test_a_scenario_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(PerfError, match="no scenario cobol"):
        scenario("cobol", tmp_path, _BASES)
    with pytest.raises(PerfError, match="no change dependency"):
        scenario("sample", tmp_path, _BASES, change="dependency")
    with pytest.raises(PerfError, match="needs a base image for RUNTIME"):
        scenario("go", tmp_path, {"BASE": "base:1"})
    with pytest.raises(PerfError, match=r"no Dockerfile\.plain"):
        scenario("smallfiles", tmp_path, _BASES, mounts=False)


def test_other_base_images(tmp_path: Path) -> None:
    project = scenario("manyfiles", tmp_path, {"BASE": "base:1", "FILES": "400"}, change="base")

    moved = project.rebase({"BASE": "base:2"})

    assert moved.job("image").arguments == {"BASE": "base:2", "FILES": "400"}
    assert project.arguments["BASE"] == "base:1"


def test_one_image_or_one_for_each_target(tmp_path: Path) -> None:
    one = scenario("go", tmp_path, _BASES, mounts=False)
    several = scenario("monorepo", tmp_path, _BASES)

    assert [job.image for job in one.jobs("host/side/go")] == ["host/side/go:latest"]
    assert one.dockerfile == one.context / "Dockerfile.plain"
    jobs = several.jobs("host/side", "3")
    assert len(jobs) == 10
    assert (jobs[0].image, jobs[0].target) == ("host/side/gateway:3", "gateway")


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
