"""Fixtures of the tests of ``buildsvc cache``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.cachecli.stores import Console, Made


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """An empty store in a directory."""
    return Made(str(tmp_path / "store"))


@pytest.fixture
def console(capsys: pytest.CaptureFixture[str]) -> Console:
    """Runs the command."""
    return Console(capsys)
