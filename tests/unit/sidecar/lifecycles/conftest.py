"""What the tests of lives have in common."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from sidecar import lifecycle
from sidecar.rootdir import locked
from sidecar.settings import Settings
from tests.unit.sidecar.lifecycles.world import BUILDKITD, HERE, World


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Below a path that is short enough for sockets."""
    directory = tmp_path_factory.mktemp("l")
    programs = directory / "bin"
    programs.mkdir()
    for name, text in (("buildkitd", BUILDKITD), ("runc", HERE), ("rootlesskit", HERE)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return Settings.read(
        {
            "root": directory / "root",
            "tools_dir": programs,
            "network": "host",
            "allow_reachable_endpoint": True,
            "publish": "never",
            "max_used_space": "1GB",
        }
    )


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        yield bound


@pytest_asyncio.fixture
async def world(
    settings: Settings, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with locked(settings.root, asyncio.Event()) as root:
        it = World(settings, root, listener)
        monkeypatch.setattr(lifecycle, "Namespace", it.namespace)
        yield it
