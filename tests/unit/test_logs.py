"""Logs: shape, redaction, other libraries' records, bounded files, and no secrets."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from buildsvc.log import get_logger
from buildsvc.logs import LogOptions, Logs
from buildsvc.redact import MASK, redacted, redacted_text


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_on_standard_error_in_the_file_and_in_the_ring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Logs(LogOptions("json", "info", tmp_path / "logs" / "sidecar.log")) as logs:
        log = get_logger("sidecar.test")
        log.info("fetched", name="x", bytes=3)
        log.debug("not shown")
        log.warning("late, at 100 %", path=Path("/p"), parts=("a", {(1, 2): b"c"}))
    on_terminal = lines(capsys.readouterr().err)
    assert on_terminal == lines((tmp_path / "logs" / "sidecar.log").read_text())
    assert on_terminal == lines("\n".join(logs.recent()))
    first, second = on_terminal
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["time"])
    assert list((first | {"time": ""}).items()) == [
        ("name", "x"),
        ("bytes", 3),
        ("event", "fetched"),
        ("logger", "sidecar.test"),
        ("level", "info"),
        ("time", ""),
    ]
    assert (second["event"], second["level"]) == ("late, at 100 %", "warning")
    assert (second["path"], second["parts"]) == ("/p", ["a", {"(1, 2)": "c"}])


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with Logs(LogOptions("human", "info")):
        get_logger("x").info("fetched", name="y", at="a b", empty="")
        logging.getLogger("library").log(logging.INFO + 5, "a notice that is longer than most")
        logging.getLogger("library").error("here", stack_info=True)
    first, second, third, *stack = capsys.readouterr().err.splitlines()
    clock = r"\d\d:\d\d:\d\d"
    assert re.fullmatch(clock + r" \[info     \] fetched {17} at='a b' empty= name=y", first)
    assert re.fullmatch(clock + r" \[level 25 \] a notice that is longer than most", second)
    assert re.fullmatch(clock + r" \[error    \] here", third)
    assert stack[0] == "Stack (most recent call last):"
    assert "stack_info=True" in stack[-1]


def test_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    with Logs(LogOptions("auto", "info")):
        get_logger("x").warning("late", name="y")
    text = re.sub(r"\d\d:\d\d:\d\d", "TIME", terminal.getvalue())
    assert text == (
        "\x1b[2mTIME\x1b[0m [\x1b[33m\x1b[1mwarning  \x1b[0m] "
        "\x1b[1mlate                    \x1b[0m \x1b[36mname\x1b[0m=\x1b[35my\x1b[0m\n"
    )


def test_auto_is_json_without_a_terminal() -> None:
    assert not LogOptions("auto", "info").human()


def test_other_libraries_come_along(capsys: pytest.CaptureFixture[str]) -> None:
    with Logs(LogOptions("json", "info")):
        logging.getLogger("library").warning("GET %s", "http://me:hunter2@host/")
        logging.getLogger("asyncio").info("chatter")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = lines(capsys.readouterr().err)
    assert (first["event"], first["logger"]) == (f"GET http://{MASK}@host/", "library")
    assert "old" in second["event"]


def test_what_cannot_be_shown_is_named_and_the_rest_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those of pytest raise.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with Logs(LogOptions("json", "info")):
        logging.getLogger("library").warning("PUT %d", "http://me:hunter2@host/")
        get_logger("x").info("next")
    text = capsys.readouterr().err
    assert "hunter2" not in text
    first, second = lines(text)
    assert re.search(r"test_logs.py:\d+ cannot be shown: TypeError$", first["event"])
    assert (first["logger"], first["level"]) == ("library", "warning")
    assert second["event"] == "next"


def test_events_are_as_they_were_when_logged(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a"]
    with Logs(LogOptions("json", "info")):
        get_logger("x").info("fetched", names=names)
        logging.getLogger("library").warning("%s", names)
        names.append("b")
    first, second = lines(capsys.readouterr().err)
    assert (first["names"], second["event"]) == (["a"], "['a']")


def test_the_caller_of_a_method_is_the_source_of_its_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    get_logger("x").warning("late")
    with pytest.raises(ValueError, match="PUT"):
        fail_and_log()
    assert [record.funcName for record in caplog.records] == [
        "test_the_caller_of_a_method_is_the_source_of_its_record",
        "fail_and_log",
    ]
    assert {record.filename for record in caplog.records} == {"test_logs.py"}


def fail() -> None:
    raise ValueError("PUT http://me:hunter2@host/x?token=hunter2")


def fail_and_log() -> None:
    try:
        fail()
    except ValueError:
        get_logger("x").exception("failed")
        raise


def test_errors_have_their_traceback_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with Logs(LogOptions("json", "info")):
        with pytest.raises(ValueError, match="PUT") as caught:
            fail_and_log()
        logging.getLogger("y").error("failed", exc_info=caught.value)
        get_logger("x").error("failed", exc_info=caught.value)
        logging.getLogger("y").error("nothing is being handled", exc_info=(None, None, None))
    text = capsys.readouterr().err
    assert "hunter2" not in text
    *failed, last = lines(text)
    assert len(failed) == 3
    for line in failed:
        assert line["exception"].startswith("Traceback (most recent call last):")
        assert line["exception"].endswith(f"ValueError: PUT http://{MASK}@host/x?token={MASK}")
    assert "exception" not in last


def test_a_traceback_follows_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Logs(LogOptions("human", "info")), pytest.raises(ValueError, match="PUT"):
        fail_and_log()
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert first.endswith("] failed")
    assert second == "Traceback (most recent call last):"
    assert last.startswith("ValueError")


def test_afterwards_logging_is_as_before() -> None:
    root, asyncio = logging.getLogger(), logging.getLogger("asyncio")
    before = (list(root.handlers), root.level, asyncio.level)
    with Logs(LogOptions("json", "debug")):
        assert (root.handlers, root.level) != before[:2]
        assert asyncio.level == logging.WARNING
    assert (root.handlers, root.level, asyncio.level) == before


def test_files_and_ring_are_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Logs(LogOptions("json", "info", tmp_path / "sidecar.log")) as logs:
        log = get_logger("x")
        for number in range(2500):
            log.info("x" * 8000, number=number)
    capsys.readouterr()
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["sidecar.log", "sidecar.log.1", "sidecar.log.2"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 12 * 1024 * 1024
    assert len(logs.recent()) == 2000
    assert json.loads(logs.recent()[-1])["number"] == 2499


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:pw@host/p", "https://***@host/p"),
        ("oss://host/b?Signature=abc&Expires=1", "oss://host/b?Signature=***&Expires=1"),
        ("x?security-token=abc", "x?security-token=***"),
        ("Authorization: Bearer abcdefghijk", "Authorization: Bearer ***"),
        ("{'Authorization': 'OSS4-HMAC key'}", "{'Authorization': '*** key'}"),
        ("nothing to hide: a@b http://host/p?page=2", "nothing to hide: a@b http://host/p?page=2"),
    ],
)
def test_secrets_in_text(text: str, expected: str) -> None:
    assert redacted_text(text) == expected


def test_secrets_by_name() -> None:
    found = redacted(
        {
            "store_token": "abc",
            "list": [{"access_key_id": "abc", "n": 1}],
            "empty_secret": "",
            "cache_key": "main",
            "error": ValueError("at http://a:b@c"),
        }
    )
    assert found == {
        "store_token": MASK,
        "list": [{"access_key_id": MASK, "n": 1}],
        "empty_secret": "",
        "cache_key": "main",
        "error": f"at http://{MASK}@c",
    }


def test_a_full_disk_costs_the_file_its_lines_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sidecar.log").symlink_to("/dev/full")
    with Logs(LogOptions("json", "info", tmp_path / "sidecar.log")) as logs:
        get_logger("x").info("one")
        get_logger("x").info("two")
    assert [line["event"] for line in lines(capsys.readouterr().err)] == ["one", "two"]
    assert len(logs.recent()) == 2


_STALLED = """
import sys
from pathlib import Path
from buildsvc.log import get_logger
from buildsvc.logs import LogOptions, Logs

with Logs(LogOptions("json", "info", Path(sys.argv[1], "sidecar.log"))) as logs:
    for number in range(1000):
        get_logger("x").info("x" * 1000, number=number)
print(len(logs.recent()))
"""


def test_a_reader_that_has_stalled_holds_up_neither_the_end_nor_the_file(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _STALLED, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=writing,
            # Buffered: only then does a write hold a lock that the end needs.
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            timeout=60,
            check=False,
        )
        os.set_blocking(reading, False)
        on_terminal = os.read(reading, 1 << 20).splitlines()
    finally:
        os.close(reading)
        os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"1000\n")
    in_file = (tmp_path / "sidecar.log").read_bytes().splitlines()
    assert len(in_file) == 1000
    assert 10 < len(on_terminal) < 1000
    assert on_terminal[:-1] == in_file[: len(on_terminal) - 1]


def test_long_lines_arrive_whole_at_a_reader_that_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    said = "\N{SNOWMAN}" * 300_000
    with open(reading, encoding="utf-8") as reader, open(writing, "w", encoding="utf-8") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with Logs(LogOptions("human", "info", tmp_path / "sidecar.log")):
            get_logger("x").info(said)
            get_logger("x").info("next")
            assert said in reader.readline()
            assert "next" in reader.readline()
