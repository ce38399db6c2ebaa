"""The command line: help, errors and exit codes, and settings as `config` prints them."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from buildsvc.errors import ConfigError
from buildsvc.setting import flag_name
from sidecar import cli
from sidecar.settings import SETTINGS


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.environ", {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("sidecar ")
    assert "buildkitd v0." in text
    assert "cache format " in text


@pytest.mark.parametrize(
    "command", ["run", "status", "wait-ready", "checkpoint", "config", "debug-bundle"]
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert "--root" in capsys.readouterr().out


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    text = capsys.readouterr().out
    for name in SETTINGS:
        assert f"  {flag_name(name)} " in text


def test_config_prints_settings_that_can_be_read_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--grace", "5m", "--fallback-key", "a", "--fallback-key", "b", "--nofsync=off"]
    assert cli.main(["config", *flags, "--allow-reachable-endpoint"]) == 0
    text = capsys.readouterr().out
    assert "grace: 300s  # --grace\n" in text
    assert "tenant: default  # default\n" in text
    found = yaml.safe_load(text)
    assert found["fallback_key"] == ["a", "b"]
    assert (found["nofsync"], found["allow_reachable_endpoint"]) == ("off", "on")
    (tmp_path / "again.yaml").write_text(text)
    assert cli.main(["config", "--config", str(tmp_path / "again.yaml")]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == found


def test_a_reader_that_leaves_early_is_no_defect() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sidecar", "config"],
            stdout=writing,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
            check=False,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (74, b"")


@pytest.mark.parametrize(
    ("store", "masked"),
    [
        ("http://me:hunter2@host/x", "http://***@host/x"),
        ("http://me:a#hunter2@host/x", "http://***@host/x"),
        ("http://me:a?hunter2@host/x", "http://***@host/x"),
        ("http://me:a@hunter2@host/x", "http://***@host/x"),
        ("http://me:a/hunter2@host/x", "http://***"),
        ("http://1:2/hunter2@host/x", "http://***"),
        ("https://host:1/x?sig=hunter2", "https://host:1/x?***"),
        ("https://[::1]:1/x#hunter2", "https://[::1]:1/x"),
        ("s3://AKID:hunter2@bucket", "s3://***@bucket"),
        ("file:///a@b", "file:///a@b"),
        ("/a/b#c?d@e", "/a/b#c?d@e"),
    ],
)
def test_secrets_of_an_address_are_not_shown(
    store: str, masked: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDSVC_STORE", store)
    assert cli.main(["config"]) == 0
    text = capsys.readouterr().out
    assert yaml.safe_load(text)["store"] == masked
    assert "hunter2" not in text


@pytest.mark.parametrize(
    "store",
    [
        "s3://AKID:hunter2@bucket",
        "s3://AKID:a@hunter2@bucket",
        "https://host/x?sig=hunter2",
        "https://host/x?id=hunter2",
        "https://host/x#hunter2",
        "https://me:a#hunter2@host/x",
        "https://me:hunter2/a@host/x",
        "https://me:hunter2@host/x",
        "file://me:hunter2@host/x",
        "http://[::1",
        "http://me:hunter2@[::1",
    ],
)
def test_no_address_that_is_no_store_ends_with_a_secret_or_a_traceback(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDSVC_STORE", store)
    flags = ["--root", str(tmp_path / "root"), "--listen", "127.0.0.1:0"]
    assert cli.main(["run", *flags]) == 78
    text = capsys.readouterr().err
    assert "sidecar: error: " in text
    assert "hunter2" not in text


def test_an_error_is_reported_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.refuse(ConfigError("no", found="http://me:hunter2@host")) == 78
    assert capsys.readouterr().err == "sidecar: error: no\n  found: http://***@host\n"


def test_secrets_are_masked_in_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDSVC_STORE", "http://me:hunter2@host/x")
    assert cli.main(["config"]) == 0
    text = capsys.readouterr().out
    assert "hunter2" not in text
    assert "http://***@host/x" in text


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 64, "COMMAND"),
        (["fly"], 64, "invalid choice"),
        (["config", "--stor", "x"], 64, "--stor"),
        (["config", "--grace"], 64, "--grace"),
        (["config", "--grace", "soon"], 78, "--grace: 'soon' is not a duration"),
        (["status", "--json", "--follow"], 64, "not allowed"),
        (["wait-ready", "--timeout", "x"], 64, "--timeout"),
    ],
)
def test_wrong_usage_is_told_without_a_traceback(
    argv: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == code
    text = capsys.readouterr().err
    assert text.startswith("sidecar: error: ")
    assert message in text
    assert "Traceback" not in text


def test_commands_without_a_sidecar_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("status", "checkpoint"):
        assert cli.main([command, "--root", str(tmp_path)]) == 69
        text = capsys.readouterr().err
        assert "no sidecar answers" in text
        assert "\n  what to do: " in text


def test_wait_ready_gives_up_in_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["wait-ready", "--root", str(tmp_path), "--timeout", "100ms"]) == 75
    assert "no build is served yet" in capsys.readouterr().err


def test_a_debug_bundle_needs_no_sidecar_and_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUILDSVC_STORE", "http://me:hunter2@host/x")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "sidecar.log").write_text("GET http://me:hunter2@host/x?token=hunter2\n")
    bundle = tmp_path / "b.tar.gz"
    assert cli.main(["debug-bundle", "--root", str(tmp_path), "-o", str(bundle)]) == 0
    assert capsys.readouterr().out == f"{bundle}\n"
    assert bundle.stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundle) as tar:
        members = {item.name: tar.extractfile(item) for item in tar.getmembers()}
        texts = {name: file.read().decode() for name, file in members.items() if file}
    assert "hunter2" not in "".join(texts.values())
    assert "GET http://***@host/x" in texts["buildsvc-debug/logs/sidecar.log"]
    assert "sidecar " in texts["buildsvc-debug/versions.txt"]
    assert cli.main(["debug-bundle", "--root", str(tmp_path), "-o", str(bundle)]) == 73
