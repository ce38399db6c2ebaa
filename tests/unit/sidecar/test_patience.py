"""A start waits for the cache as long as clients can, and no longer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from sidecar import patience
from sidecar.patience import Patience


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        yield bound


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_task_that_ends_is_waited_for(listener: socket.socket) -> None:
    done = asyncio.create_task(asyncio.sleep(0))
    assert await Patience(listener).wait(done)


async def test_a_client_is_not_kept_waiting(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "CLIENT_PATIENCE", 0.01)
    task = asyncio.create_task(forever())
    with socket.create_connection(listener.getsockname()):
        assert not await Patience(listener).wait(task)
        # It was not accepted: it is still the daemon's to be.
        listener.settimeout(0)
        listener.accept()[0].close()
    task.cancel()


async def test_a_second_wait_has_what_the_first_left(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "CLIENT_PATIENCE", 0.01)
    task, both = asyncio.create_task(forever()), Patience(listener)
    with socket.create_connection(listener.getsockname()):
        assert not await both.wait(task)
        monkeypatch.setattr(patience, "CLIENT_PATIENCE", 3600.0)
        assert not await both.wait(task)
    task.cancel()


async def test_without_a_client_it_waits_longer(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "CLIENT_PATIENCE", 0.0)
    go = asyncio.Event()
    task = asyncio.create_task(go.wait())
    waiting = asyncio.create_task(Patience(listener).wait(task))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    go.set()
    assert await waiting


async def test_not_even_an_idle_pod_waits_for_ever(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "IDLE_PATIENCE", 0.01)
    task = asyncio.create_task(forever())
    assert not await Patience(listener).wait(task)
    task.cancel()


async def test_a_failure_is_the_tasks_own(listener: socket.socket) -> None:
    async def fail() -> None:
        raise ValueError("its own")

    task = asyncio.create_task(fail())
    assert await Patience(listener).wait(task)
    with pytest.raises(ValueError, match="its own"):
        await task
