"""Scratch directories: removed by who made them, or by the next program of the kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perf import host

_HOLD = """
import sys
from pathlib import Path
from perf.host import scratch

with scratch(Path(sys.argv[1]), "bs") as directory:
    (directory / "file").write_text("left behind")
    print(directory, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _old_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_NEW_SECONDS", 0)


def _holder(base: Path) -> tuple[subprocess.Popen[str], Path]:
    argv = [sys.executable, "-c", _HOLD, str(base)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_it_is_removed_with_all_it_contains(tmp_path: Path) -> None:
    with host.scratch(tmp_path, "bs") as directory:
        (directory / "deep" / "er").mkdir(parents=True)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_program_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process, left = _holder(tmp_path)
    _end(process)
    assert (left / "file").exists()
    with host.scratch(tmp_path, "bs") as directory:
        assert list(tmp_path.iterdir()) == [directory]


def test_what_a_killed_program_left_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_MEMORY", tmp_path)
    monkeypatch.setattr(host, "free_bytes", lambda where: 3 - len(list(where.iterdir())))
    process, left = _holder(tmp_path)
    assert host.scratch_base("bs", room=3) == host.disk()
    _end(process)
    assert host.scratch_base("bs", room=3) == tmp_path
    assert not left.exists()


def test_what_a_living_program_has_stays(tmp_path: Path) -> None:
    process, held = _holder(tmp_path)
    try:
        with host.scratch(tmp_path, "bs"):
            assert (held / "file").exists()
    finally:
        _end(process)


def test_two_do_not_measure_at_one_time(tmp_path: Path) -> None:
    process, held = _holder(tmp_path)
    try:
        with (
            pytest.raises(host.PerfError, match=f"being measured in {held}"),
            host.scratch(tmp_path, "bs", alone=True),
        ):
            pass
    finally:
        _end(process)
    with host.scratch(tmp_path, "bs", alone=True):
        pass


def test_what_has_no_lock_yet_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_NEW_SECONDS", 60)
    made = tmp_path / "bs-justmade"
    made.mkdir()
    with host.scratch(tmp_path, "bs"):
        assert made.exists()


def test_what_others_made_stays(tmp_path: Path) -> None:
    others = [tmp_path / "bs-longername", tmp_path / "buildsvc-run-abcdefgh"]
    for other in others:
        other.mkdir()
    (tmp_path / "bs-linkedto").symlink_to(tmp_path)
    with host.scratch(tmp_path, "bs"):
        assert all(other.exists() for other in others)


def test_a_json_file_has_a_line_for_what_fits_into_one(tmp_path: Path) -> None:
    content = {"few": [1, {"a": None}], "many": [list(range(30)), "ä" * 10, []], "none": {}}
    host.write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == content
    assert '\n "few": [1, {"a": null}],\n' in text
    assert max(map(len, text.splitlines())) <= host._WIDTH + 2


def test_two_states_of_the_files_have_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "REPOSITORY", tmp_path)
    assert host.revision() == "unknown"
    git = ("git", "-c", "user.name=a", "-c", "user.email=b", "-C", str(tmp_path))
    file = tmp_path / "file"
    file.write_text("one")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    clean = host.revision()
    assert "dirty" not in clean
    found = {clean}
    for text in ("two", "three"):
        file.write_text(text)
        found.add(host.revision())
    (tmp_path / "new").touch()
    found.add(host.revision())
    assert len(found) == 4
    file.write_text("one")
    (tmp_path / "new").unlink()
    assert host.revision() == clean


@pytest.mark.parametrize(
    ("text", "given"), [("9\n", True), ("11\n", False), ("-1\n", False), (None, False)]
)
def test_whether_free_memory_goes_back_to_the_host(
    tmp_path: Path, text: str | None, *, given: bool
) -> None:
    order = tmp_path / "page_reporting_order"
    if text is not None:
        order.write_text(text)
    assert host.gives_memory_back(order) is given


@pytest.mark.parametrize(
    ("text", "killed"), [("pgfault 12\noom_kill 3\nnr 4\n", 3), ("pgfault 12\n", 0), (None, 0)]
)
def test_processes_that_the_kernel_killed_for_memory(
    tmp_path: Path, text: str | None, killed: int
) -> None:
    counters = tmp_path / "vmstat"
    if text is not None:
        counters.write_text(text)
    assert host.killed_for_memory(counters) == killed
