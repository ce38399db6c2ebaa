"""A disk that is full, or fills while a pod works on it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.integration.machines import machine
from tests.integration.sidecars import command

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("size", ["4k", "1m"])
async def test_no_room_for_the_root(directory: Path, size: str) -> None:
    async with machine(directory / "disk", size) as full:
        ended = await command(
            *full.enter, sys.executable, "-m", "sidecar", "run", f"--root={full.inside}/root",
            "--listen=127.0.0.1:0", "--http-listen=off", "--log-format=human",
        )  # fmt: skip
    assert ended.code == 73
    assert re.search("found: (No space left on device|.* KiB)", ended.err)
    for word in ("expected:", "what to do:"):
        assert word in ended.err
    assert "Traceback" not in ended.err
