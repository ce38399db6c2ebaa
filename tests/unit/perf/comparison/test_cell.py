"""The order in which peers take turns, and what is left to them after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import cast

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
            raise RuntimeError("it does not build")
        return {"seconds": 1.0}

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
def test_each_round_begins_with_another_one() -> None:
    found, fake = run(task(["one", "two", "two-cold"], 3))
    assert found == [
        ("one", "first", 0),
        ("two", "first", 0),
        ("one", "settle", 0),
        ("two", "settle", 0),
        ("one", "again", 0),
        ("two", "again", 0),
        ("two-cold", "again", 0),
        ("two", "again", 1),
        ("two-cold", "again", 1),
        ("one", "again", 1),
        ("two-cold", "again", 2),
        ("one", "again", 2),
        ("two", "again", 2),
    ]
    # Only what is cold finds a registry without its images.
    assert ("two", True) in fake.images.used
    assert ("one", True) not in fake.images.used
    # Peers that share a cache share their changes.
    assert fake.revised.count("two") == 7


def test_what_was_measured_is_not_measured_again(made: list[FakePeer]) -> None:
    found, _ = run(task(["one", "two"], 2, {"one": [0, 1], "two": [0]}))
    assert [peer.name for peer in made] == ["two"]
    assert found == [("two", "first", 0), ("two", "settle", 0), ("two", "again", 1)]


def test_every_peer_is_closed_when_one_fails(made: list[FakePeer]) -> None:
    with pytest.raises(RuntimeError, match="it does not build"):
        run(task(["one", "bad"], 1))
    assert all(peer.closed for peer in made)


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
