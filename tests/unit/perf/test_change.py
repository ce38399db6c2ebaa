from pathlib import Path

import pytest

from perf.change import FirstInstruction, Line, Nothing, Release, releases
from perf.host import PerfError


def test_a_missing_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")

    with pytest.raises(PerfError, match="no line matches"):
        Line("a.py", "^y = ", "y = {}").apply(tmp_path, 1)


def test_a_file_without_comments_cannot_be_changed(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"\xff\xfe")

    with pytest.raises(PerfError, match="no comment"):
        Line("data.bin").apply(tmp_path, 1)


def test_a_release_is_taken_in_every_file_and_the_first_follows_the_last(tmp_path: Path) -> None:
    versions = [row["version"] for row in releases("java")]
    manifest, lock = tmp_path / "manifest", tmp_path / "lock"
    manifest.write_text("a = 0\nb = 0\n")
    lock.write_text("a 0\n")
    change = Release(
        "java",
        (Line("manifest", "^a = .*$", "a = {version}"), Line("lock", "^a .*$", "a {version}")),
    )

    change.apply(tmp_path, len(versions) + 1)

    assert manifest.read_text() == f"a = {versions[1]}\nb = 0\n"
    assert lock.read_text() == f"a {versions[1]}\n"
    assert change.file == "manifest"


def test_the_first_instruction_changes_in_every_stage_of_every_dockerfile(tmp_path: Path) -> None:
    for name in ("Dockerfile", "Dockerfile.plain"):
        (tmp_path / name).write_text("FROM a\nENV IMAGE_REVISION=0\nFROM b\nENV IMAGE_REVISION=0\n")

    FirstInstruction().apply(tmp_path, 4)

    for name in ("Dockerfile", "Dockerfile.plain"):
        assert (tmp_path / name).read_text().count("ENV IMAGE_REVISION=4\n") == 2


def test_nothing_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")

    Nothing().apply(tmp_path, 1)

    assert [path.read_text() for path in tmp_path.iterdir()] == ["a"]
