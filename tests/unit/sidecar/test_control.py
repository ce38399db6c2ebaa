"""The command socket: its commands, errors, clients that misbehave, and who may enter."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from buildsvc.errors import EnvironmentUnfit, StoreUnavailable
from sidecar import client
from sidecar.control import CheckpointReport, ControlServer, RemoteError, ask, socket_path
from sidecar.status import Generation, Phase, Status
from sidecar.timeline import Kind

REPORT = CheckpointReport(
    published=True,
    reason="",
    key="main",
    number=4,
    seconds=1.5,
    snapshots=3,
    blobs=2,
    packs=1,
    uploaded_bytes=100,
)


@pytest.fixture(autouse=True)
def never_blocks() -> Iterator[BlockBuster]:
    with blockbuster_ctx("sidecar") as found:
        yield found


class Lifecycle:
    """Stands in for the lifecycle; holds back checkpoints until it is told."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.asked = asyncio.Event()
        self.failure: Exception | None = None

    async def checkpoint(self) -> CheckpointReport:
        self.asked.set()
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        return REPORT


@pytest.fixture
async def status() -> Status:
    return Status(recent_log=lambda: ["line"])


@pytest.fixture
async def lifecycle() -> Lifecycle:
    return Lifecycle()


@pytest.fixture
async def root(
    tmp_path_factory: pytest.TempPathFactory, status: Status, lifecycle: Lifecycle
) -> AsyncIterator[Path]:
    # Short: an address of a Unix socket has room for 107 bytes.
    root = tmp_path_factory.mktemp("r")
    async with ControlServer(root, status, lifecycle):
        yield root


async def first(root: Path, command: str) -> Any:
    async with aclosing(ask(root, command)) as answers:
        return await anext(answers)


async def test_status(root: Path, status: Status) -> None:
    status.enter(Phase.RESTORING, "x")
    assert (await first(root, "status"))["phase"] == "restoring"
    assert await first(root, "logs") == ["line"]


async def test_checkpoint_waits_and_reports(root: Path, lifecycle: Lifecycle) -> None:
    lifecycle.go_on.clear()
    out = StringIO()
    waiting = asyncio.create_task(client.checkpoint(root, out))
    await lifecycle.asked.wait()
    assert not waiting.done()
    lifecycle.go_on.set()
    await waiting
    assert json.loads(out.getvalue())["number"] == 4


async def test_an_error_keeps_its_exit_code(root: Path, lifecycle: Lifecycle) -> None:
    lifecycle.failure = StoreUnavailable("the store is away")
    with pytest.raises(RemoteError, match="the store is away") as caught:
        await first(root, "checkpoint")
    assert caught.value.exit_code == 75


async def test_a_defect_ends_the_client_too(root: Path, lifecycle: Lifecycle) -> None:
    seen: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, found: seen.put_nowait(found))
    lifecycle.failure = RuntimeError("a defect")
    with pytest.raises(EnvironmentUnfit, match="in the middle of checkpoint"):
        await first(root, "checkpoint")
    assert str((await seen.get())["exception"]) == "a defect"
    assert (await first(root, "status"))["phase"] == "starting"


async def test_wait_ready(root: Path, status: Status) -> None:
    waiting = asyncio.create_task(client.wait_ready(root, timeout=60))
    async with aclosing(ask(root, "follow")) as answers:
        await anext(answers)
        status.enter(Phase.STARTING_DAEMON)
        await anext(answers)
    assert not waiting.done()
    status.enter(Phase.READY)
    await waiting


async def test_wait_ready_for_a_sidecar_that_stops(root: Path, status: Status) -> None:
    waiting = asyncio.create_task(client.wait_ready(root, timeout=60))
    await first(root, "status")
    status.enter(Phase.STOPPED)
    with pytest.raises(EnvironmentUnfit, match="has stopped"):
        await waiting


async def test_follow_gives_changes_and_ends_with_the_sidecar(root: Path, status: Status) -> None:
    span = status.begin(Kind.BUILD, "b")
    async with aclosing(ask(root, "follow")) as answers:
        assert [item["name"] for item in (await anext(answers))["timeline"]] == ["b"]
        status.enter(Phase.READY)
        assert (await anext(answers))["timeline"] == []
        span.end()
        assert [item["outcome"] for item in (await anext(answers))["timeline"]] == ["ok"]
        status.enter(Phase.STOPPED)
        assert (await anext(answers))["phase"] == "stopped"
        with pytest.raises(StopAsyncIteration):
            await anext(answers)


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b"[]\n", b"{}\n", b'{"command": "halt"}\n', b"\xff\n", b"{" * 200_000]
)
async def test_nonsense_is_answered_or_dropped_and_harms_nobody(root: Path, line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket_path(root)))
    writer.write(line)
    answer = await reader.read()
    assert not answer or json.loads(answer)["error"]["exit_code"] == 64
    writer.close()
    assert (await first(root, "status"))["phase"] == "starting"


async def test_a_client_that_goes_away_is_no_error(
    root: Path, status: Status, lifecycle: Lifecycle
) -> None:
    lifecycle.go_on.clear()
    for command in (b'{"command":"follow"}\n', b'{"command":"checkpoint"}\n', b"", b"half"):
        _reader, writer = await asyncio.open_unix_connection(str(socket_path(root)))
        writer.write(command)
        writer.close()
        await writer.wait_closed()
    status.enter(Phase.READY)
    assert (await first(root, "status"))["ready"] is True


async def test_nobody_else_can_enter(root: Path) -> None:
    directory = socket_path(root).parent
    assert directory.stat().st_mode & 0o777 == 0o700


async def test_a_deep_root_and_a_predecessors_socket(tmp_path: Path, status: Status) -> None:
    root = tmp_path.joinpath(*["a-long-name-of-a-directory"] * 6)
    path = socket_path(root)
    assert len(str(path)) > 108
    path.parent.mkdir(parents=True)
    path.write_text("left behind")
    async with ControlServer(root, status, Lifecycle()):
        assert path.is_socket()
        assert (await first(root, "status"))["phase"] == "starting"
    assert not path.exists()


async def test_leaving_ends_the_clients(tmp_path: Path, status: Status) -> None:
    async with ControlServer(tmp_path, status, Lifecycle()):
        answers = ask(tmp_path, "follow")
        await anext(answers)
    with pytest.raises(StopAsyncIteration):
        await anext(answers)


async def test_no_sidecar(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit, match="no sidecar answers"):
        await first(tmp_path, "status")
    path = socket_path(tmp_path)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    with pytest.raises(EnvironmentUnfit, match="no sidecar answers"):
        await first(tmp_path, "status")


async def test_status_for_people(root: Path, status: Status) -> None:
    status.serves("127.0.0.1:1", tls=True, isolated=False)
    status.serves_http("127.0.0.1:2")
    status.restores(Generation("feature", "main", 7, 0.0, "that is why"), 3)
    status.begin(Kind.FETCH, "x", why="trace").end(bytes=5_000_000)
    status.begin(Kind.BUILD, "r").end("failed", error="exit code: 2")
    out = StringIO()
    await client.show_status(root, as_json=False, out=out)
    for part in (
        "starting",
        "tcp://127.0.0.1:1 (mutual TLS)",
        "http://127.0.0.1:2/",
        "main #7",
        "fallback for feature, because that is why",
        "1 of 3 objects, 5.0 MB",
        "1 not needed",
        "1 failed",
        "build-failed: exit code: 2",
    ):
        assert part in out.getvalue()
    as_json = StringIO()
    await client.show_status(root, as_json=True, out=as_json)
    assert json.loads(as_json.getvalue())["schema"] == 1


async def test_status_of_another_domains_generation(root: Path, status: Status) -> None:
    status.restores(Generation("app", "app", 7, 0.0, found_domain="protected"), 3)
    out = StringIO()
    await client.show_status(root, as_json=False, out=out)
    assert "app of trust domain protected #7" in out.getvalue()
    assert "fallback for app" in out.getvalue()
