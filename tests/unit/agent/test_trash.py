"""What is thrown away goes, whatever a RUN step has made."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from sidecar.agent.trash import Trash


def _nested(directory: Path, depth: int) -> None:
    inside = os.open(directory, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("d", dir_fd=inside)
            deeper = os.open("d", os.O_RDONLY, dir_fd=inside)
            os.close(inside)
            inside = deeper
    finally:
        os.close(inside)


async def test_without_a_process_to_spare_others_are_deleted_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trash = Trash()
    for name in ("deep", "next"):
        (tmp_path / name).mkdir()
    delete = shutil.rmtree

    def too_deep(directory: str, **_: object) -> None:
        if directory.endswith("deep"):
            raise RecursionError
        delete(directory)

    def refused(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("sidecar.agent.trash.shutil.rmtree", too_deep)
    monkeypatch.setattr("sidecar.agent.trash.subprocess.run", refused)
    trash.throw(str(tmp_path / "deep"))
    trash.throw(str(tmp_path / "next"))
    await trash.emptied()
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


async def test_more_directories_in_one_another_than_python_can_call(tmp_path: Path) -> None:
    trash = Trash()
    for name in ("deep", "next"):
        (tmp_path / name).mkdir()
    await asyncio.to_thread(_nested, tmp_path / "deep", 1500)
    trash.throw(str(tmp_path / "deep"))
    trash.throw(str(tmp_path / "next"))
    await trash.emptied()
    assert list(tmp_path.iterdir()) == []
