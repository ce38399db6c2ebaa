"""The command as a process: exit codes, errors for people, and its end by a signal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from buildsvc.errors import CannotCreate
from buildsvc.imagebuild import command
from buildsvc.imagebuild.command import private_directory
from tests.unit.imagebuild.fakes import script


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    return tmp_path


def start(app: Path, *flags: str, **env: str) -> subprocess.Popen[str]:
    (app / "tmp").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name[:9] != "BUILDSVC_"}
    return subprocess.Popen(
        [sys.executable, "-m", "buildsvc", "image-build", f"--context={app}", "--push=off",
         "--status-url=off", "--address=tcp://127.0.0.1:9", *flags],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**kept, "TMPDIR": str(app / "tmp"), "HOME": str(app), **env},
    )  # fmt: skip


def ended(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    with child:
        out, err = child.communicate(timeout=60)
    return child.returncode, out, err


def buildctl(app: Path, build: str) -> str:
    """A client that gets an answer, and builds like this."""
    text = f'case "$*" in *" debug info") exit 0;; esac\n{build}'
    return f"--buildctl={script(app / 'buildctl', text)}"


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_the_builds(app: Path, code: int) -> None:
    found, out, err = ended(start(app, buildctl(app, f"echo progress >&2; exit {code}")))
    assert (found, out) == (code, "")
    assert err.startswith("progress\n")
    assert list((app / "tmp").iterdir()) == []


def test_credentials_are_private_and_the_password_stays_here(app: Path) -> None:
    build = 'stat -c "%a %n" "$DOCKER_CONFIG" "$DOCKER_CONFIG/config.json"; env; echo "$@"'
    code, out, err = ended(
        start(
            app, buildctl(app, build), "--registry-user=me", "--repository=r.example/app",
            BUILDSVC_IMAGE_REGISTRY_PASSWORD="hunter2",
        )
    )  # fmt: skip
    assert code == 0, err
    assert "hunter2" not in out + err
    modes = [line.split()[0] for line in out.splitlines()[:2]]
    assert modes == ["700", "600"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_build_and_step(app: Path, number: signal.Signals) -> None:
    build = 'trap "echo told >&2; exit 1" TERM INT HUP; echo begun; sleep 600 & wait'
    child = start(app, buildctl(app, build))
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    child.send_signal(number)
    code, _, err = ended(child)
    assert code == 128 + number
    assert err == f"told\nimage-build: ended by {number.name}\n"
    assert list((app / "tmp").iterdir()) == []


def test_a_signal_while_it_waits(app: Path) -> None:
    child = start(app, f"--buildctl={script(app / 'buildctl', 'echo closed; exit 1')}")
    assert child.stderr is not None
    assert "closed (0 s)" in child.stderr.readline()
    child.terminate()
    code, _, err = ended(child)
    assert code == 143
    assert err.endswith("image-build: ended by SIGTERM\n")


def test_errors_are_for_people(app: Path) -> None:
    code, _, err = ended(start(app, "--dockerfile=None"))
    assert code == 66
    assert err == (
        "image-build: error: there is no such Dockerfile\n"
        "  expected: a file; a relative path begins at the context\n"
        f"  found: {app}/None, which does not exist\n"
        "  what to do: set --dockerfile\n"
    )


def test_no_buildctl(app: Path) -> None:
    code, _, err = ended(start(app, "--buildctl=/nowhere/buildctl"))
    assert code == 69
    assert "/nowhere/buildctl: No such file or directory" in err


def test_a_ctrl_c_on_a_terminal_ends_both_once(app: Path) -> None:
    """It comes to the step's process group only; buildctl has one of its own."""
    build = 'trap "echo told-$((n += 1)) >&2; exit 1" INT; echo begun; sleep 600 & wait'
    ours, theirs = pty.openpty()
    argv = [
        "setsid", "--ctty", "--wait", sys.executable, "-m", "buildsvc", "image-build",
        f"--context={app}", "--push=off", "--status-url=off", "--address=tcp://127.0.0.1:9",
        buildctl(app, build),
    ]  # fmt: skip
    shown = b""
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        with suppress(OSError):  # EIO: the other end is closed.
            while data := os.read(ours, 1024):
                if b"begun" not in shown and b"begun" in shown + data:
                    os.write(ours, b"\x03")
                shown += data
        os.close(ours)
        assert child.wait(timeout=60) == 130
    assert shown.count(b"told-1") == 1
    assert b"told-2" not in shown
    assert shown.endswith(b"image-build: ended by SIGINT\r\n")


def test_a_defect_is_no_failed_build(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(command, "load_settings", fails)
    assert command.main([]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_no_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(CannotCreate, match="mount an emptyDir at /tmp"), private_directory():
        pass
