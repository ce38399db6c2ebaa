"""The comparison of compression levels reads what a store has."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from buildsvc.cache.packs import pack_name
from perf import levels
from tests.unit.cache.fakes import write_pack


def test_every_chunk_counts_at_every_level(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = [b"line\n" * 400_000, random.Random(1).randbytes(1 << 20)]
    pack = write_pack(tmp_path, contents)
    place = tmp_path / "store" / pack_name(pack.digest)
    place.parent.mkdir(parents=True)
    pack.path.rename(place)
    assert list(levels.contents(tmp_path / "store")) == contents
    assert levels.main([str(tmp_path / "store"), "1", "19"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert "MiB of 3 " in head
    # What cannot be compressed is stored as it is.
    assert [row.split(" | ")[:2] for row in rows] == [["| 1", "1.0"], ["| 19", "1.0"]]


def test_a_directory_without_packs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert levels.main([str(tmp_path)]) == 66
    assert "there are no packs" in capsys.readouterr().err
