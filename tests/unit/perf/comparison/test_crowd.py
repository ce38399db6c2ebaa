"""Pods that begin at one moment."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from perf.comparison import place as places
from perf.comparison.peers.contract import Peer, Record
from perf.comparison.peers.crowd import Crowd
from perf.comparison.place import Place
from perf.project import scenario


class Fake(Peer):
    """Tells what it would have built and read."""

    def __init__(self, place: Place, family: str) -> None:
        super().__init__(place, "fake", family)
        self.cold_reason = ""

    def first(self) -> Record:
        return {"kind": "first", "image": self.image()}

    def again(self) -> Record:
        main = (self.place.project.context / "src" / "main.c").read_text()
        revision = main.partition("revision = ")[2].partition(";")[0]
        self.record: Record = {
            "image": self.image(),
            "cache": self.cache(),
            "revision": int(revision),
            "seconds": float(revision),
            "build_seconds": float(revision) / 2,
            "cpu_seconds": 1.5,
            "cold_reason": self.cold_reason,
            "memory_bytes": 10,
            "received_bytes": 99,
            "sent_bytes": 99,
        }
        return self.record


@pytest.fixture
def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    """Three at once on a sample project, over a link on which nothing moves."""
    counters = tmp_path / "counters"
    counters.write_text("  wan0: 70 1 0 0 0 0 0 0 30 2 0 0 0 0 0 0\n")
    monkeypatch.setattr(places, "_COUNTERS", counters)
    project = scenario("python", tmp_path, {"BASE": "base:1"})
    images = cast("Any", SimpleNamespace(host="registry"))
    where = Place(
        tmp_path, (), "198.18.0.2", images, tmp_path, project, [{"BASE": "base:1"}], ExitStack()
    )
    return Crowd(where, Fake, "fake", 3)


def _records(crowd: Crowd) -> list[Record]:
    return [cast("Fake", peer).record for peer in (crowd._one, *crowd._others)]


def test_each_has_a_change_and_an_image_of_its_own_and_all_read_one_cache(crowd: Crowd) -> None:
    crowd.place.revise(crowd.family)
    crowd.again()
    crowd.place.revise(crowd.family)
    first = {record["revision"] for record in _records(crowd)}
    crowd.again()

    records = _records(crowd)
    assert [record["image"] for record in records] == [
        "registry/built/python:latest",
        "registry/built/python-1:latest",
        "registry/built/python-2:latest",
    ]
    assert {record["cache"] for record in records} == {"registry/cache/python:latest"}
    revisions = {record["revision"] for record in records}
    assert len(revisions) == 3
    assert not revisions & first


def test_what_a_crowd_shows_is_the_slowest_and_what_all_took(crowd: Crowd) -> None:
    found = crowd.again()

    slowest = max(_records(crowd), key=lambda record: record["revision"])
    assert (found["seconds"], found["build_seconds"]) == (
        slowest["seconds"],
        slowest["build_seconds"],
    )
    assert sorted(found["each"]) == sorted(record["seconds"] for record in _records(crowd))
    assert (found["cpu_seconds"], found["memory_bytes"]) == (4.5, 30)
    # What went over the link went there once, whoever counted it.
    assert (found["received_bytes"], found["sent_bytes"]) == (0, 0)


def test_the_first_build_is_one_pods(crowd: Crowd) -> None:
    assert crowd.first() == {"kind": "first", "image": "registry/built/python:latest"}
    assert (crowd.name, crowd.family) == ("fake-x3", "fake-x3")
    assert crowd._one.family == crowd.family


def test_how_many_of_a_crowd_found_no_cache(crowd: Crowd) -> None:
    assert crowd.again()["cold_reason"] == ""
    for peer in crowd._others:
        cast("Fake", peer).cold_reason = "time-out"
    assert crowd.again()["cold_reason"] == "2 of 3 pods: time-out"
