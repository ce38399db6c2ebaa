"""A comparison's file."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from perf import host
from perf.comparison import book
from perf.comparison.matrix import Cell
from perf.host import PerfError

CELL = Cell("go", ("warm",), rounds=2)
LINK = {"round_trip_ms": 1.0, "mbit": 950.0}


@pytest.fixture(autouse=True)
def about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "versions", dict)
    monkeypatch.setattr(book, "peers_versions", lambda: {"kaniko": "v1"})
    monkeypatch.setattr(host, "revision", lambda: "one")


def record(kind: str, number: int) -> book.Record:
    return {"peer": "warm", "kind": kind, "round": number}


def test_it_goes_on_with_what_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    first = book.opened(path)
    first.begin(CELL, LINK)
    first.save(CELL, record("first", 0))
    first.save(CELL, record("again", 0))
    second = book.opened(path)
    assert second.done(CELL) == {"warm": [0]}
    second.begin(CELL, LINK)
    second.save(CELL, record("again", 1))
    cell = book.read(path)["cells"][CELL.name]
    assert (cell["scenario"], cell["link"], len(cell["records"])) == ("go", LINK, 3)
    assert book.opened(path).done(Cell("node")) == {}


def test_what_failed_is_kept_beside_the_rounds(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    kept = begun(path)
    failed = record("again", 1) | {"error": "it does not build"}
    kept.save(CELL, failed)
    cell = book.read(path)["cells"][CELL.name]
    assert (cell["records"], cell["failures"]) == ([record("again", 0)], [failed])
    assert kept.done(CELL) == {"warm": [0]}
    assert book.read(path)["sittings"][0]["versions"] == {"kaniko": "v1"}


def begun(path: Path) -> book.Book:
    found = book.opened(path)
    found.begin(CELL, LINK)
    found.save(CELL, record("again", 0))
    return found


def test_other_code_measures_other_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    begun(path)
    monkeypatch.setattr(host, "revision", lambda: "two")
    second = book.opened(path)
    with pytest.raises(PerfError, match=r"are of commit one .*, this is two"):
        second.begin(CELL, LINK)
    second.begin(Cell("node"), LINK)
    second.save(Cell("node"), record("again", 0))
    content = book.read(path)
    assert [one["commit"] for one in content["sittings"]] == ["one", "two"]
    assert [cell["sitting"] for cell in content["cells"].values()] == [0, 1]


def test_another_machine_measures_other_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path / "results.json")
    monkeypatch.setattr(host, "machine", lambda: {"cpus": 96})
    with pytest.raises(PerfError, match="or another machine"):
        book.opened(tmp_path / "results.json").begin(CELL, LINK)


def test_a_cell_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    begun(path)
    monkeypatch.setattr(host, "revision", lambda: "two")
    second = book.opened(path)
    second.forget(CELL)
    second.begin(CELL, LINK)
    assert second.done(CELL) == {}
    assert second.content["cells"][CELL.name]["sitting"] == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_file_of_something_else(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(PerfError, match="is not a comparison's results"):
        book.opened(path)


def test_it_does_not_say_where_files_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/venv/bin/python", "-m", "perf", "run", "--output", "/a/b.json", "--scratch=/x/y"]
    monkeypatch.setattr(sys, "executable", words[0])
    monkeypatch.setattr(sys, "orig_argv", words)
    told = book.opened(tmp_path / "results.json").content["sittings"][0]["commands"][0]
    assert told == ["python", "-m", "perf", "run", "--output", "b.json", "--scratch=y"]
