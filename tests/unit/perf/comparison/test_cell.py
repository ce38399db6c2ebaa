"""The order in which peers take turns, and what is left to them after an interruption."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import msgspec
import pytest

from perf.comparison import cell, place
from perf.comparison.cell import Cell, Task
from perf.comparison.peers.contract import Peer, Record
from perf.comparison.place import Place, Traffic
from perf.host import PerfError


class FakeImages:
    def __init__(self) -> None:
        self.used: list[tuple[str, bool]] = []

    def use(self, name: str, *, empty: bool) -> None:
        self.used.append((name, empty))


class FakePlace:
    def __init__(self) -> None:
        self.images = FakeImages()
        self.revised: list[str] = []
        self.forgotten: list[str] = []

    def restore(self) -> None:
        self.revised.append("as it was")

    def forget(self, family: str) -> None:
        self.forgotten.append(family)

    def revise(self, family: str) -> None:
        self.revised.append(family)


class FakePeer(Peer):
    def __init__(self, place: Place, name: str) -> None:
        super().__init__(place, name, name.partition("-")[0])
        self.cold = name.endswith("cold")
        self.closed = False

    def first(self) -> Record:
        return {} if self.cold else {"seconds": 9.0}

    def again(self) -> Record:
        if self.name == "bad":
            raise PerfError("it does not build")
        if self.name == "broken":
            raise RuntimeError("nobody thought of this")
        steps = 4
        return {"seconds": 1.0, "steps": steps, "cached": steps if self.name == "lucky" else 3}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[FakePeer]:
    """The peers that were made."""
    peers: list[FakePeer] = []

    def make(where: Place, names: list[str]) -> list[FakePeer]:
        peers.extend(FakePeer(where, name) for name in names)
        return peers

    monkeypatch.setattr(cell, "peers_of", make)
    return peers


def task(peers: list[str], rounds: int, done: dict[str, list[int]] | None = None) -> Task:
    return Task("go", peers, rounds, "/nowhere", [], "198.18.0.2", done=done or {})


def run(work: Task) -> tuple[list[tuple[str, str, int]], FakePlace]:
    fake, records = FakePlace(), list[Record]()
    Cell(cast("Place", fake), work, records.append).run()
    return [(r["peer"], r["kind"], r["round"]) for r in records], fake


@pytest.mark.usefixtures("made")
def test_each_round_has_an_order_of_its_own() -> None:
    peers = ["one", "two", "two-cold"]
    found, fake = run(task(peers, 8))
    assert found[:4] == [
        ("one", "first", 0),
        ("two", "first", 0),
        ("one", "settle", 0),
        ("two", "settle", 0),
    ]
    rounds = [[peer for peer, _, number in found[4:] if number == n] for n in range(8)]
    assert all(sorted(each) == peers for each in rounds)
    assert len({tuple(each) for each in rounds}) > 3
    # Only what is cold finds a registry without its images.
    assert ("two", True) in fake.images.used
    assert ("one", True) not in fake.images.used
    # Peers that share a cache share their changes.
    assert fake.revised.count("two") == 17


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(("medium", "synced"), [("disk", 5), ("tmpfs", 0)])
def test_on_a_disk_nobody_waits_for_what_another_one_wrote(
    monkeypatch: pytest.MonkeyPatch, medium: str, synced: int
) -> None:
    calls: list[None] = []
    monkeypatch.setattr("os.sync", lambda: calls.append(None))
    run(msgspec.structs.replace(task(["one", "two-cold"], 1), medium=medium))
    # First, settle and a round of the one; the other one is cold and has first and a round.
    assert len(calls) == synced


def test_large_ones_are_measured_apart_and_leave_nothing(
    made: list[FakePeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, records = FakePlace(), list[Record]()
    work = msgspec.structs.replace(task(["a-1", "b", "a-2", "c-cold"], 1), at_once=1)
    closed: list[tuple[str, list[str]]] = []

    def emit(record: Record) -> None:
        records.append(record)
        closed.append((record["peer"], [peer.name for peer in made if peer.closed]))

    clock = iter(range(1000, 2000, 10))
    monkeypatch.setattr("time.time", lambda: next(clock))
    Cell(cast("Place", fake), work, emit).run()

    # Rounds that were not in turn are not compared one by one.
    turns = {
        peer: {r["turn"] for r in records if r["peer"] == peer} for peer in ("a-1", "a-2", "b")
    }
    assert turns["a-1"] == turns["a-2"] != turns["b"]
    assert [(r["peer"], r["kind"]) for r in records] == [
        ("a-1", "first"),
        ("a-2", "first"),
        ("a-1", "settle"),
        ("a-2", "settle"),
        ("a-1", "again"),
        ("a-2", "again"),
        ("b", "first"),
        ("b", "settle"),
        ("b", "again"),
        ("c-cold", "again"),
    ]
    assert dict(closed)["a-2"] == []
    assert dict(closed)["b"] == ["a-1", "a-2"]
    assert fake.forgotten == ["a", "b", "c"]
    assert all(peer.closed for peer in made)
    # No family's first build is of a state that its later ones come back to.
    again = "as it was"
    assert fake.revised == [again, *["a"] * 4, again, *["b"] * 2, again, "c"]


@pytest.mark.usefixtures("made")
def test_some_families_take_turns_and_then_the_other_ones() -> None:
    fake, records = FakePlace(), list[Record]()
    work = msgspec.structs.replace(task(["a-1", "b", "a-2", "c", "d"], 1), at_once=2)
    Cell(cast("Place", fake), work, records.append).run()
    assert {r["peer"] for r in records[:9]} == {"a-1", "a-2", "b"}
    assert {r["peer"] for r in records[9:]} == {"c", "d"}
    assert fake.forgotten == ["a", "b", "c", "d"]


def test_what_was_measured_is_not_measured_again(made: list[FakePeer]) -> None:
    found, _ = run(task(["one", "two"], 2, {"one": [0, 1], "two": [0]}))
    assert [peer.name for peer in made] == ["two"]
    assert found == [("two", "first", 0), ("two", "settle", 0), ("two", "again", 1)]


def test_a_peer_that_fails_is_left_out_and_the_others_go_on(
    made: list[FakePeer], capsys: pytest.CaptureFixture[str]
) -> None:
    fake, records = FakePlace(), list[Record]()
    measured = Cell(cast("Place", fake), task(["bad", "one"], 2), records.append)

    assert measured.run() == ["bad"]
    assert [(r["peer"], r["kind"], r["round"]) for r in records] == [
        ("bad", "first", 0),
        ("one", "first", 0),
        ("bad", "settle", 0),
        ("one", "settle", 0),
        ("one", "again", 0),
        ("one", "again", 1),
    ]
    assert [r["error"] for r in records if "error" in r] == ["it does not build"]
    assert capsys.readouterr().err == "perf: error: bad settle 1: it does not build\n"
    assert all(peer.closed for peer in made)


@pytest.mark.usefixtures("made")
def test_a_round_that_the_memory_was_too_small_for_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Before and after the first build and the settling of the one, before and after its round.
    killed = iter([3, 3, 3, 3, 3, 4, 4])
    monkeypatch.setattr(cell, "killed_for_memory", lambda: next(killed))
    records = list[Record]()
    assert Cell(cast("Place", FakePlace()), task(["one"], 1), records.append).run() == ["one"]
    assert [r["kind"] for r in records if "error" not in r] == ["first", "settle"]
    assert records[-1]["error"].startswith("it built; the kernel killed a process")


@pytest.mark.usefixtures("made")
def test_a_build_that_finds_all_cached_after_a_change_does_not_count() -> None:
    records = list[Record]()
    measured = Cell(cast("Place", FakePlace()), task(["lucky"], 1), records.append)
    assert measured.run() == ["lucky"]
    assert "every step was cached" in records[-1]["error"]
    nothing = msgspec.structs.replace(task(["lucky"], 1), change="nothing")
    assert not Cell(cast("Place", FakePlace()), nothing, records.append).run()


def test_every_peer_is_closed_when_something_else_goes_wrong(made: list[FakePeer]) -> None:
    with pytest.raises(RuntimeError, match="nobody thought of this"):
        run(task(["one", "broken"], 1))
    assert all(peer.closed for peer in made)


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("peers", [["one"], ["one", "bad"]])
def test_the_program_says_whether_any_failed(
    peers: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def opened(*_: object) -> Iterator[FakePlace]:
        yield FakePlace()

    monkeypatch.setattr(cell, "opened", opened)
    monkeypatch.setenv("BUILDSVC_REGISTRY_ADDRESS", "")

    assert cell.main([msgspec.json.encode(task(peers, 1)).decode()]) == 2 * (len(peers) - 1)
    # Each of "bad" is a first build, and a change that fails.
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2 * len(peers)


@pytest.mark.usefixtures("made")
def test_sigterm_stops_what_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []

    @contextmanager
    def opened(*_: object) -> Iterator[FakePlace]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            yield FakePlace()
        finally:
            stopped.append("services")

    monkeypatch.setattr(cell, "opened", opened)
    monkeypatch.setenv("BUILDSVC_REGISTRY_ADDRESS", "")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert cell.main([msgspec.json.encode(task(["one"], 1)).decode()]) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped == ["services"]


def test_traffic_needs_the_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "dev"
    table.write_text(
        "Inter-|   Receive\n face |bytes\n"
        "    lo:  5 0 0 0 0 0 0 0  5 0 0 0 0 0 0 0\n"
        "  wan0: 70 1 0 0 0 0 0 0 30 2 0 0 0 0 0 0\n"
    )
    monkeypatch.setattr(place, "_COUNTERS", table)
    assert place.traffic() == Traffic(70, 30)
    table.write_text("    lo:  5 0 0 0 0 0 0 0  5 0 0 0 0 0 0 0\n")
    with pytest.raises(PerfError, match="there is no wan0 here"):
        place.traffic()
