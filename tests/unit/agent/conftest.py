"""What the tests of the agent have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.agent import capture
from sidecar.agent.reading import FileReader
from tests.unit.agent.ondisk import Cache


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """A packer and what it has packed."""
    with Cache(tmp_path / "staging") as cache:
        yield cache


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Paths of the files that were opened."""
    opened: list[bytes] = []

    class Counting(FileReader):
        def __init__(
            self, name: bytes, dir_fd: int | None, path: bytes, status: os.stat_result
        ) -> None:
            opened.append(path)
            super().__init__(name, dir_fd, path, status)

    monkeypatch.setattr(capture, "FileReader", Counting)
    return opened
