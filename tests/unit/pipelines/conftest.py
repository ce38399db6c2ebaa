"""Fixtures of the tests of deploy/pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.pipelines.recorder import Recorder


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """A ``buildsvc`` that only notes how it is called."""
    return Recorder(tmp_path)
