"""The model adds up what it says, and every assumption in it can be set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perf.comparison.names import HEAD_START, NO_START
from perf.host import PerfError
from perf.reporting import costs
from perf.reporting.results import Cell
from tests.unit.perf import fictitious

_PEERS = (NO_START, HEAD_START, "buildkit-registry-zstd")


def _cell(**changed: object) -> Cell:
    content = fictitious.cell(_PEERS, rounds=2)
    content["records"] = [
        record | ({"stored_bytes": 2_000_000_000} if record["kind"] == "first" else changed)
        for record in content["records"]
    ]
    return fictitious.book({"a": content}).cells["a"]


_ROUND = (
    "builds=300", "caches=2", "kept_days=15", "object_mb=10", "requests=5", "storage=1",
    "put=100", "get=10", "upload=0.5", "internal=0.25", "internet=2",
)  # fmt: skip


def test_a_month_adds_up() -> None:
    cell = _cell(sent_bytes=10_000_000, received_bytes=100_000_000)
    found = costs.month(cell, NO_START, costs.chosen(_ROUND))
    assert found is not None
    assert found.stored_gb == pytest.approx(2 * 2 + 0.01 * 300 * 15 / 30)
    assert [found.puts, found.gets] == [300 * (5 + 1), 300 * (5 + 10)]
    assert [found.sent_gb, found.received_gb] == pytest.approx([3, 30])
    assert found.storage == pytest.approx(5.5)
    assert found.requests == pytest.approx(1800 / 100 + 4500 / 1000)
    assert found.inside == pytest.approx(5.5 + 22.5 + 3 * 0.5 + 30 * 0.25)
    assert found.outside == pytest.approx(5.5 + 22.5 + 3 * 0.5 + 30 * 2)


def test_requests_that_were_counted_go_before_the_assumption() -> None:
    requests = {"get": 3, "get_range_to": 30, "stat": 1, "create": 2, "put_file": 4, "delete": 1}
    found = costs.month(_cell(requests=requests), NO_START, costs.chosen(_ROUND))
    assert found is not None
    assert [found.puts, found.gets] == [300 * 6, 300 * 34]


def test_what_was_not_measured_costs_nothing_known() -> None:
    values = costs.chosen(())
    assert costs.month(_cell(), "buildkit-s3-zstd", values) is None
    later = fictitious.without(fictitious.cell(_PEERS), NO_START)
    cell = fictitious.book({"a": later}).cells["a"]
    # The cache is that of all of buildsvc's, the rebuilds are each one's own.
    assert costs.month(cell, NO_START, values) is None
    assert costs.month(cell, HEAD_START, values) is not None


@pytest.mark.parametrize("wrong", ["get", "get=", "nothing=1", "put=-1", "get=nan", "put=inf"])
def test_a_setting_that_cannot_be(wrong: str) -> None:
    with pytest.raises(PerfError, match=r"expected NAME=VALUE.*storage, get, put"):
        costs.chosen([wrong])


def test_a_request_without_bytes() -> None:
    with pytest.raises(PerfError, match="object_mb"):
        costs.chosen(["object_mb=0"])


def test_every_assumption_is_in_the_table_with_its_source() -> None:
    text = "\n".join(costs.section(fictitious.book(), ["internet=0.8"]))
    for name, assumption in costs.ASSUMPTIONS.items():
        where = "set by an option" if name == "internet" else assumption.source
        value = 0.8 if name == "internet" else assumption.value
        assert f"| `{name}` | {value:g} | {assumption.unit} | {where} |" in text
    assert text.count("| python | buildkit-registry-zstd |") == 1
    assert "Not measured" not in text


def test_what_is_missing_is_said() -> None:
    cells = {"a": fictitious.without(fictitious.cell(), "buildkit-s3-zstd", HEAD_START)}
    text = "\n".join(costs.section(fictitious.book(cells)))
    said = (
        "Not measured, or not what it stores: python of buildsvc-20s, python of buildkit-s3-zstd."
    )
    assert said in text
    assert "| python | buildkit-s3-zstd |" not in text


def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "book.json"
    path.write_text(json.dumps(fictitious.content()))
    assert costs.main([str(path), "--set", "builds=7"]) == 0
    assert "| `builds` | 7 |" in capsys.readouterr().out
    assert costs.main([str(path), "--set", "builds=x"]) == 2
    assert capsys.readouterr().err.startswith(
        "perf.reporting.costs: error: builds=x: expected NAME=VALUE"
    )
    assert costs.main([str(tmp_path / "none")]) == 2
