"""The campaign's own bookkeeping: what it goes on with, what it ends with, what it shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perf import host
from tests.campaign.__main__ import POINTS
from tests.campaign.book import Book, new_book, open_book
from tests.campaign.children import run_all, shares
from tests.campaign.points import CampaignError, Found, Part, Point, Scene, pieces, total
from tests.campaign.report import markdown
from tests.campaign.runner import Runner

Work = Callable[[Scene], Found]


def fine(scene: Scene) -> Found:
    scene.say("half of it")
    return Found({"tries": 2, "most": 3, "by": {"a": 1}})


def missed(_: Scene) -> Found:
    return Found({"tries": 1}, ["two winners"])


def contradicted(_: Scene) -> Found:
    assert 1 + 1 == 3, "arithmetic"
    return Found({})


def stuck(_: Scene) -> Found:
    raise TimeoutError("nobody answers")


def contradicted_in_tasks(_: Scene) -> Found:
    raise ExceptionGroup("tasks", [AssertionError("arithmetic"), TimeoutError()])


def broken_in_tasks(_: Scene) -> Found:
    raise ExceptionGroup("tasks", [AssertionError("arithmetic"), OSError()])


def broken(_: Scene) -> Found:
    raise OSError("no store")


def point(**works: Work) -> Point:
    return Point(
        7, "thing", "It holds.", "tries", 9, 2,
        lambda _: [Part(name, work) for name, work in works.items()], "1 minute",
    )  # fmt: skip


class Campaign:
    """A book in a directory, and runs of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "book.json"
        self.said: list[str] = []

    def book(self) -> Book:
        return open_book(self.path) if self.path.exists() else new_book(self.path, "seed")

    def run(self, one: Point, steps: int = 9) -> int:
        return Runner(self.book(), self.place, self.said.append).run([(one, steps)])

    @contextmanager
    def place(self, _: int) -> Iterator[Path]:
        yield self.directory

    def summary(self, one: Point) -> str:
        return markdown(json.loads(self.path.read_text()), [one])


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path)


@pytest.mark.parametrize(
    ("works", "code", "shown"),
    [
        ({"a": fine}, 0, "| met |"),
        ({"a": fine, "b": missed}, 1, "**1 missed**"),
        ({"a": contradicted}, 1, "arithmetic"),
        ({"a": stuck}, 1, "nobody answers"),
        ({"a": contradicted_in_tasks}, 1, "arithmetic"),
        ({"a": broken_in_tasks}, 2, "arithmetic"),
        ({"a": fine, "b": broken}, 2, "| not finished |"),
        ({"a": broken, "b": missed}, 1, "**1 missed**"),
    ],
)
def test_how_it_ends(campaign: Campaign, works: dict[str, Work], code: int, shown: str) -> None:
    one = point(**works)
    assert campaign.run(one) == code
    assert shown in campaign.summary(one)


def test_it_goes_on_where_it_was(campaign: Campaign) -> None:
    tried: list[str] = []

    def counted(scene: Scene) -> Found:
        tried.append(scene.seed)
        return fine(scene)

    assert campaign.run(point(a=counted, b=broken)) == 2
    # What could not be tried is tried again, what was is not, and what missed stays missed.
    assert campaign.run(point(a=counted, b=counted, c=missed)) == 1
    assert campaign.run(point(a=counted, b=counted, c=fine)) == 1
    assert tried == ["seed/7/a", "seed/7/b"]
    assert any("(1 of 2): in the book" in line or "(1 of 3): in the book" in line
               for line in campaign.said)  # fmt: skip


def test_an_interrupted_part_is_tried_again(campaign: Campaign) -> None:
    def interrupted(_: Scene) -> Found:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        campaign.run(point(a=fine, b=interrupted))
    assert "| 1 of 2 |" in campaign.summary(point(a=fine, b=interrupted))
    assert campaign.run(point(a=interrupted, b=fine)) == 0


def test_it_does_not_go_on_with_something_else(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign.run(point(a=fine))
    with pytest.raises(CampaignError, match="9 steps, not 8"):
        campaign.run(point(a=fine), steps=8)
    monkeypatch.setattr(host, "revision", lambda: "another")
    with pytest.raises(CampaignError, match="this is another"):
        campaign.run(point(a=fine))


def test_what_it_shows(campaign: Campaign) -> None:
    one = point(a=fine, b=fine, c=missed)
    campaign.run(one, steps=4)
    summary = campaign.summary(one)
    assert "| 7 thing | 4 of 9 tries | 3 of 3 |" in summary
    assert "- tries: 5\n- most: 3\n- by: a 2\n" in summary
    assert "- **missed** in c: two winners" in summary
    assert any(line.endswith("a (1 of 3): half of it") for line in campaign.said)


def test_figures_of_parts() -> None:
    parts = [{"a": 1, "most_b": 5, "c": {"x": 1}}, {"a": 2.5, "most_b": 4, "c": {"x": 1, "y": 2}}]
    assert total(parts) == {"a": 3.5, "most_b": 5, "c": {"x": 2, "y": 2}}
    assert total([]) == {}


def test_how_steps_are_cut() -> None:
    assert pieces(25, 10) == [(0, 10), (10, 10), (20, 5)]
    for count in (1, 2, 7):
        cut = shares(3, count)
        assert sum(number for _, number in cut) == count
        assert cut[0][0] == 3
        assert all(number for _, number in cut)


def test_programs(tmp_path: Path) -> None:
    say = 'echo working; echo \'{"figures": {"a": 2}, "misses": ["m"]}\''
    found = run_all([["sh", "-c", say], ["sh", "-c", say]], tmp_path, {}, 1)
    assert found == Found({"a": 4}, ["m", "m"])
    with pytest.raises(CampaignError, match=r"ended with 3: (.|\n)*why"):
        run_all([["sh", "-c", "echo why >&2; exit 3"]], tmp_path, {}, 1)
    assert "hangs" in run_all([["sleep", "600"]], tmp_path, {}, 0).misses[0]


def test_every_point_has_parts() -> None:
    assert [each.number for each in POINTS] == sorted({each.number for each in POINTS})
    for each in POINTS:
        for steps in (1, each.quick, each.full):
            names = [part.name for part in each.parts(steps)]
            assert names
            assert len(names) == len(set(names))
