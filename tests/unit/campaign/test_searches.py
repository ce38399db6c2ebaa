"""What the campaign looks for, and what it does to requests, is what it says."""

from __future__ import annotations

import base64
import io
import random
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from tests.campaign.canaries import CONTROL, Search, _look_into, forms
from tests.campaign.forging import Forger
from tests.campaign.treechanges import CHANGES
from tests.campaign.weather import Shares, Weather

SECRET = b"a secret/with+signs=="


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        SECRET.hex().encode(),
        b"x=a%20secret%2Fwith%2Bsigns%3D%3D",
        base64.b64encode(SECRET),
        base64.b64encode(b"user:" + SECRET),
        base64.urlsafe_b64encode(b"abcd" + SECRET + b"tail"),
    ],
)
def test_a_secret_is_found_however_it_is_written(text: bytes) -> None:
    search = Search({"it": forms(SECRET)})
    search.look("here", b"before " + text + b" after")
    assert search.misses == ["it is in here"]


def test_nothing_is_found_where_nothing_is() -> None:
    search = Search({"it": forms(SECRET)})
    search.look("here", b"a secret, but another " + CONTROL.encode())
    assert search.misses == []
    assert search.control["here"] == 1


def test_archives_in_archives(tmp_path: Path) -> None:
    inner = _tar("f", SECRET)
    path = tmp_path / "outer.tar"
    path.write_bytes(_tar("inner.tar.gz", inner))
    search = Search({"it": forms(SECRET)})
    _look_into(path, "archive", search)
    assert search.misses


def _tar(name: str, content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def test_shares_of_bad_weather() -> None:
    chance = random.Random(1)
    weather = Weather("", chance, Shares())
    counts = Counter(weather._outcome(chance.random()) for _ in range(20_000))
    for outcome, share in {
        "unavailable": 0.1,
        "throttled": 0.05,
        "reset_before": 0.075,
        "reset_after": 0.075,
        "passed": 0.7,
    }.items():
        assert abs(counts[outcome] / 20_000 - share) < 0.01


def test_a_case_is_made_again_from_its_seed() -> None:
    for kind in ("tree", "pack", "root", "head"):
        made = [getattr(Forger(random.Random(7), b"/outside"), kind)() for _ in range(2)]
        assert made[0] == made[1]


def test_every_change_can_be_made() -> None:
    forger = Forger(random.Random(3), b"/outside")
    for change in CHANGES:
        for _ in range(50):
            change(forger, forger.honest_tree())
