"""What tests of the agent have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.agent.ondisk import Cache


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """A packer and what it has packed."""
    with Cache(tmp_path / "staging") as cache:
        yield cache
