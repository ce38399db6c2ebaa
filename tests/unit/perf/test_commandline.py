from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from perf.commandline import add_places, new_output, parser, run_rootless
from perf.host import PerfError


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ends(work: object) -> int:
    """The exit code of a command whose work returns, raises or does this."""

    def run() -> int:
        if isinstance(work, BaseException):
            raise work
        if isinstance(work, int):
            return work
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("SIGTERM did not end the work")

    return run_rootless("try", ["-m", "x"], run, failed=7, interrupted="it is gone")


@pytest.fixture
def rootless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("rootless")
def test_exit_codes_and_last_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(3) == 3
    assert ends(PerfError("the registry is full")) == 7
    assert capsys.readouterr().err == "try: error: the registry is full\n"
    with pytest.raises(ZeroDivisionError):
        ends(ZeroDivisionError())


@pytest.mark.usefixtures("rootless")
@pytest.mark.parametrize("by", [KeyboardInterrupt(), "SIGTERM"])
def test_sigterm_ends_the_work_as_ctrl_c_does(
    by: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(by) == 130
    assert capsys.readouterr().err == "try: interrupted; it is gone\n"


def test_root_becomes_the_rootless_user(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[list[str]] = []

    def execv(_path: str, argv: list[str]) -> None:
        run.append(argv)
        raise SystemExit

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(SystemExit):
        ends(0)
    assert Path(run[0][0]).name == "as-builder"
    assert run[0][2:] == ["-m", "x"]


def test_places_and_where_figures_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = parser("try", "Tries it.\n\nAt length.")
    add_places(options)
    assert options.description == "Tries it."
    assert options.parse_args(["--scratch", "/s"]).scratch == Path("/s")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    left = new_output("try")
    assert left.parent == tmp_path
    assert left.match("buildsvc-try-*.json")
