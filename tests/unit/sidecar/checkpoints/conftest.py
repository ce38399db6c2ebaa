"""What the tests of checkpoints have in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from sidecar import cachemounts, checkpoint
from tests.unit.sidecar.checkpoints.scene import Scene
from tests.unit.sidecar.fakeagent import FakeAgent, connected


@pytest_asyncio.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    agent = FakeAgent()
    daemon = await asyncio.create_subprocess_exec("sleep", "1000")
    try:
        async with connected(agent, tmp_path) as client:
            made = Scene(tmp_path, client, agent, daemon.pid)
            for module in (checkpoint, cachemounts):
                monkeypatch.setattr(module, "databases", made.databases)
            yield made
            assert made.goes_on()
    finally:
        daemon.kill()
        await daemon.wait()
