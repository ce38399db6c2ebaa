"""What others see, put together: the command socket and the pages come and go together."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from buildsvc.errors import EnvironmentUnfit
from sidecar.control import CheckpointReport, ask, socket_path
from sidecar.settings import Settings
from sidecar.sources import load_settings
from sidecar.status import Phase, Status
from sidecar.surface import surface


@pytest.fixture(autouse=True)
def never_blocks() -> Iterator[BlockBuster]:
    with blockbuster_ctx("sidecar") as found:
        yield found


class NoCommands:
    async def checkpoint(self) -> CheckpointReport:
        raise AssertionError("nobody asks for one here")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Those of somebody who has chosen where the pages are: any port."""
    flags = {"root": str(tmp_path / "a"), "log_format": "json", "http_listen": "127.0.0.1:0"}
    return load_settings(flags, {})


async def test_both_are_there_while_it_is_entered(settings: Settings) -> None:
    status = Status()
    async with surface(settings, status, NoCommands()):
        status.enter(Phase.READY)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{status.http}/readyz") as answer,
        ):
            assert answer.status == 200
        async with aclosing(ask(settings.root, "status")) as answers:
            assert (await anext(answers))["http"] == status.http
    assert not socket_path(settings.root).exists()
    host, port = status.http.split(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


async def test_pages_can_be_switched_off(settings: Settings) -> None:
    status = Status()
    off = replace(settings, http_listen="off")
    async with surface(off, status, NoCommands()):
        assert status.http == ""


async def test_a_port_that_was_asked_for_must_be_free(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = f"127.0.0.1:{taken.getsockname()[1]}"
        chosen = replace(settings, http_listen=wanted)
        with pytest.raises(EnvironmentUnfit, match="another process listens"):
            async with surface(chosen, Status(), NoCommands()):
                pytest.fail("it must not begin")


async def test_a_port_that_nobody_chose_gives_way(settings: Settings, tmp_path: Path) -> None:
    first, second = Status(), Status()
    async with surface(settings, first, NoCommands()):
        defaults = replace(settings, root=tmp_path / "b", http_listen=first.http).with_origins({})
        async with surface(defaults, second, NoCommands()):
            assert second.http.startswith("127.0.0.1:")
            assert second.http != first.http
