"""What the tests of epochs have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from sidecar.launch import Launch
from sidecar.paths import EpochPaths
from sidecar.settings import Settings
from tests.unit.sidecar.epochs.scene import Scene
from tests.unit.sidecar.test_locate import MINE


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Below a path that is short enough for sockets."""
    directory = tmp_path_factory.mktemp("e")
    (directory / "buildkitd").touch(mode=0o755)
    values = {"root": directory, "tools_dir": directory, "publish": "never", "demand_timeout": 1}
    return Settings.read({**values, "trust_domain": MINE.trust_domain})


@pytest.fixture
def launch(settings: Settings) -> Launch:
    return Launch(settings, {}, None)


@pytest.fixture
def paths(settings: Settings) -> EpochPaths:
    made = EpochPaths(settings.root / "epoch-1")
    made.make()
    return made


@pytest_asyncio.fixture
async def scene(settings: Settings, launch: Launch, paths: EpochPaths) -> AsyncIterator[Scene]:
    it = Scene(settings, launch, paths)
    yield it
    await it.epoch.close(0)
