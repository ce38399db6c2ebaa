"""A disk that is full, or fills while a pod works on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.machines import machine
from tests.integration.sidecars import command

pytestmark = pytest.mark.integration


async def test_no_room_for_the_root(directory: Path) -> None:
    async with machine(directory / "disk", "4096") as full:
        ended = await command(
            *full.enter, sys.executable, "-m", "sidecar", "run", f"--root={full.inside}/root",
            "--listen=127.0.0.1:0", "--http-listen=off", "--log-format=human",
        )  # fmt: skip
    assert ended.code == 73
    assert "No space left on device" in ended.err
    assert "what to do:" in ended.err
