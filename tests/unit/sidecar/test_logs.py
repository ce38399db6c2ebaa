"""Logs: shape, redaction, other libraries' records, bounded files, and no secrets."""

from __future__ import annotations

import json
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import structlog

from sidecar.logs import LogOptions, Logs
from sidecar.redact import MASK, redacted, redacted_text


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_on_standard_error_in_the_file_and_in_the_ring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Logs(LogOptions("json", "info", tmp_path / "logs")) as logs:
        log = structlog.get_logger("sidecar.test")
        log.info("fetched", name="x", bytes=3)
        log.debug("not shown")
        with structlog.contextvars.bound_contextvars(epoch=2):
            log.warning("late", path=Path("/p"))
    on_terminal = lines(capsys.readouterr().err)
    assert on_terminal == lines((tmp_path / "logs" / "sidecar.log").read_text())
    assert on_terminal == lines("\n".join(logs.recent()))
    first, second = on_terminal
    assert first | {"time": ""} == {
        "event": "fetched",
        "name": "x",
        "bytes": 3,
        "level": "info",
        "logger": "sidecar.test",
        "time": "",
    }
    assert first["time"].endswith("Z")
    assert (second["epoch"], second["path"]) == (2, "/p")


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with Logs(LogOptions("human", "info")):
        structlog.get_logger("x").info("fetched", name="y")
    text = capsys.readouterr().err
    assert "fetched" in text
    assert "name=y" in text
    assert re.match(r"\d\d:\d\d:\d\d \[info", text)
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


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


def fail() -> None:
    raise ValueError("PUT http://me:hunter2@host/x?token=hunter2")


def test_errors_have_their_traceback_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    with Logs(LogOptions("json", "info")):
        try:
            fail()
        except ValueError:
            structlog.get_logger("x").exception("failed")
            logging.getLogger("y").exception("failed")
    text = capsys.readouterr().err
    assert text.count("ValueError") >= 2
    assert "hunter2" not in text


def test_afterwards_logging_is_as_before() -> None:
    before = list(logging.getLogger().handlers)
    with Logs(LogOptions("json", "info")):
        assert logging.getLogger().handlers != before
    assert logging.getLogger().handlers == before


def test_files_and_ring_are_bounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Logs(LogOptions("json", "info", tmp_path)) as logs:
        log = structlog.get_logger("x")
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
    with Logs(LogOptions("json", "info", tmp_path)) as logs:
        structlog.get_logger("x").info("one")
        structlog.get_logger("x").info("two")
    assert [line["event"] for line in lines(capsys.readouterr().err)] == ["one", "two"]
    assert len(logs.recent()) == 2
