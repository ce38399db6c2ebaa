"""The book is read whole or refused; what follows from it is fair and leaves nothing out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from perf.comparison.names import COLD, FIRST, HEAD_START, NO_START, OURS, PEERS, WARM, in_order
from perf.host import PerfError
from perf.reporting.results import comparable, compared, decode, read, titled, waits
from tests.unit.perf import fictitious


def _decoded(content: dict[str, Any]) -> object:
    return decode(json.dumps(content).encode(), "somewhere.json")


def test_a_book_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "book.json"
    path.write_text(json.dumps(fictitious.content()))
    book = read(path)
    assert list(book.base()) == ["python", "go", "node", "java", "monorepo", "manyfiles"]
    assert book.cells["go"].link is not None
    assert book == fictitious.book()


def test_a_file_that_is_no_book(tmp_path: Path) -> None:
    with pytest.raises(PerfError, match=r"nowhere\.json cannot be read: No such file"):
        read(tmp_path / "nowhere.json")
    for content, why in (
        (b"{", "truncated"),
        (b'{"scenarios": {}}', "missing required field"),
        (b"\xff", "malformed"),
    ):
        with pytest.raises(PerfError, match=f"x is no book of a comparison.*: .*{why}"):
            decode(content, "x")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"seconds": "3"}, "seconds"),
        ({"build_seconds": 0}, "> 0"),
        ({"kind": "third"}, "kind"),
        ({"received_bytes": -1}, ">= 0"),
        ({"spans": [["daemon", 1]]}, "spans"),
    ],
)
def test_a_record_that_cannot_be(changed: dict[str, Any], why: str) -> None:
    cell = fictitious.with_records(fictitious.cell(), "kaniko", **changed)
    with pytest.raises(PerfError, match=why):
        _decoded(fictitious.content({"a": cell}))


def test_a_round_is_there_once() -> None:
    cell = fictitious.cell([WARM], rounds=1)
    cell["records"] *= 2
    with pytest.raises(PerfError, match=r"somewhere\.json: twice has round 0 of warm 2 times"):
        _decoded(fictitious.content({"twice": cell}))


def test_a_first_build_may_be_repeated() -> None:
    content = fictitious.cell(["kaniko", "buildah"], rounds=1)
    content["records"].append(fictitious.record("buildah", "first", 0, seconds=77.0))
    cell = fictitious.book({"a": content}).cells["a"]
    found = waits(cell.first("buildah"), "seconds")
    assert len(found) == 2
    assert 77.0 in found.values()


def test_a_scenario_has_one_base_cell() -> None:
    cells = {"one": fictitious.cell(), "two": fictitious.cell()}
    with pytest.raises(PerfError, match="two: there is another base cell of python"):
        fictitious.book(cells).base()
    elsewhere = fictitious.cell(network="unshaped")
    assert list(fictitious.book({"one": fictitious.cell(), "two": elsewhere}).base()) == ["python"]


def test_a_cell_of_no_sitting() -> None:
    with pytest.raises(PerfError, match=r"one is of sitting 1, which is not there"):
        fictitious.book({"one": fictitious.cell(sitting=1)})


def test_the_digest_tells_books_apart() -> None:
    book = fictitious.book()
    assert book.digest() == fictitious.book().digest()
    other = fictitious.book(sittings=[fictitious.sitting(unix=1.0)])
    assert book.digest() != other.digest()
    assert msgspec.json.decode(msgspec.json.encode(book), type=type(book)) == book


def test_peers_in_their_order_and_unknown_ones_last() -> None:
    assert in_order(["new", COLD, WARM, NO_START, "new"]) == [NO_START, WARM, COLD, "new"]
    cell = fictitious.book({"a": fictitious.cell()}).cells["a"]
    assert cell.peers() == [peer for peer in PEERS if peer != FIRST]


def test_a_settling_build_is_no_round() -> None:
    content = fictitious.cell([WARM], rounds=2)
    content["records"].append(fictitious.record(WARM, "settle", 0, build_seconds=99.0))
    cell = fictitious.book({"a": content}).cells["a"]
    assert len(cell.records) == 3
    assert max(waits(cell.again(WARM), "seconds").values()) < 99


def test_rounds_are_paired_by_their_numbers() -> None:
    content = fictitious.cell([NO_START, WARM], rounds=3)
    content["records"].reverse()
    cell = fictitious.book({"a": content}).cells["a"]
    ours, warm = (waits(cell.again(peer), "seconds") for peer in (NO_START, WARM))
    sides = compared(ours, warm)
    assert sides is not None
    assert sides.paired
    assert sides.over == [ours[0, n, 0] for n in range(3)]
    assert sides.under == [warm[0, n, 0] for n in range(3)]


def test_rounds_of_two_turns_are_not_paired() -> None:
    content = fictitious.cell([NO_START, WARM], rounds=3)
    for record in content["records"]:
        record["turn"] = 1000 + (record["peer"] == WARM)
    cell = fictitious.book({"a": content}).cells["a"]
    sides = compared(*(waits(cell.again(peer), "seconds") for peer in (NO_START, WARM)))
    assert sides is not None
    assert not sides.paired


def test_what_cannot_be_paired_is_not_left_out() -> None:
    ours = {(0, 0, 0): 1.0, (0, 1, 0): 2.0, (0, 2, 0): 3.0}
    theirs = {(0, 0, 0): 1.0, (0, 3, 0): 9.0, (0, 4, 0): 5.0}
    sides = compared(ours, theirs)
    assert sides is not None
    assert not sides.paired
    assert (sides.over, sides.under) == ([1.0, 2.0, 3.0], [1.0, 9.0, 5.0])
    assert compared(ours, {}) is None


def test_only_the_warm_daemon_is_waited_for_without_a_start() -> None:
    content = fictitious.cell([WARM, "kaniko"], rounds=1)
    cell = fictitious.with_records(content, "kaniko", seconds=None)
    found = comparable(fictitious.book({"a": cell}).cells["a"], "seconds")
    assert found == {WARM: [content["records"][-2]["build_seconds"]]}
    assert titled(WARM, "seconds") == "warm (build alone)"
    assert titled(WARM, "build_seconds") == "warm"


def test_each_of_buildsvc_is_compared_by_its_own_measure() -> None:
    cell = fictitious.book({"a": fictitious.cell()}).cells["a"]
    ours = [
        [peer for peer in comparable(cell, measure) if peer.startswith(OURS)]
        for measure in ("seconds", "build_seconds")
    ]
    assert ours == [[NO_START], ["buildsvc-5s", HEAD_START]]


def test_first_builds() -> None:
    cell = fictitious.book({"a": fictitious.cell(rounds=3)}).cells["a"]
    # In every round where there is such a peer.
    assert [len(cell.first(peer)) for peer in (OURS, COLD, "buildah", WARM)] == [3, 3, 1, 0]
    few = fictitious.cell([HEAD_START, NO_START], rounds=3)
    only = fictitious.book({"a": few}).cells["a"].first(OURS)
    assert [record.peer for record in only] == [NO_START]


def test_the_cache_at_rest() -> None:
    cells = {"found": fictitious.cell(), "told": fictitious.cell(axis="size", cache_bytes=7)}
    book = fictitious.book(cells)
    assert [cell.at_rest() for cell in book.cells.values()] == [500_000_000, 7]
