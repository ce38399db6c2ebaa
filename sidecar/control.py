"""The command socket: what ``sidecar status`` and the other commands talk to.

A Unix socket in a directory that only the sidecar's user can enter, outside the user
namespace: a RUN step never reaches it. One JSON object a line. The client sends one request,
``{"command": …}``; the answers are ``{"result": …}`` (many for ``follow``) or ``{"error":
{"class", "text", "exit_code"}}``, and then the server closes.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from buildsvc.errors import BuildsvcError, CannotCreate, EnvironmentUnfit
from buildsvc.files import private_directory
from sidecar.status import Phase, Status

# A request is a few words; an answer holds a whole timeline.
_REQUEST_LIMIT = 64 * 1024
_ANSWER_LIMIT = 64 * 1024 * 1024

# Between two answers of ``follow``: what changes in between comes in one.
_FOLLOW_SECONDS = 0.1


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint led to. ``reason`` says why nothing was published, else it is empty."""

    published: bool
    reason: str
    key: str
    number: int
    seconds: float
    snapshots: int
    blobs: int
    packs: int
    uploaded_bytes: int


class Commands(Protocol):
    """What the socket's clients can have done: the lifecycle."""

    async def checkpoint(self) -> CheckpointReport:
        """Take a checkpoint when the daemon is idle and publish it; return when that is done."""


def socket_path(root: Path) -> Path:
    """Return where a sidecar with this root has its command socket."""
    return root / "run" / "control.sock"


class ControlServer:
    """Serves the commands while it is entered. Whoever holds the root's lock may enter it."""

    def __init__(self, root: Path, status: Status, commands: Commands) -> None:
        self._path = socket_path(root)
        self._status = status
        self._commands = commands
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Bind the socket, replacing that of a predecessor. Raises CannotCreate."""
        bound = await asyncio.to_thread(_bind, self._path)
        self._server = await asyncio.start_unix_server(
            self._accepted, sock=bound, limit=_REQUEST_LIMIT
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening, end the connections and remove the socket."""
        assert self._server is not None
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with suppress(FileNotFoundError):
            await asyncio.to_thread(os.unlink, self._path)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(_report_defect)
        try:
            # A client that goes away in the middle is no concern of the sidecar's.
            with suppress(ConnectionError, ValueError):
                await self._serve(reader, writer)
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if not line:
            return
        try:
            async for result in self._results(_command(line), reader):
                writer.write(_line({"result": result}))
                await writer.drain()
        except (BuildsvcError, ValueError) as error:
            writer.write(_line({"error": _shown(error)}))
            await writer.drain()

    async def _results(self, command: str, reader: asyncio.StreamReader) -> AsyncIterator[Any]:
        if command == "status":
            yield self._status.snapshot()
        elif command == "follow":
            async for snapshot in self._follow(reader):
                yield snapshot
        elif command == "wait-ready":
            await self._status.until(lambda status: status.ready or status.phase is Phase.STOPPED)
            yield self._status.snapshot()
        elif command == "checkpoint":
            yield asdict(await self._commands.checkpoint())
        elif command == "logs":
            yield self._status.recent_log()
        else:
            raise ValueError(f"no such command: {command}")

    async def _follow(self, reader: asyncio.StreamReader) -> AsyncIterator[Any]:
        """Yield what changed until the sidecar stops or the client closes."""
        gone = asyncio.ensure_future(reader.read(1))
        try:
            seen = 0
            while not gone.done():
                snapshot = self._status.snapshot(since=seen)
                seen = snapshot["version"]
                yield snapshot
                if self._status.phase is Phase.STOPPED:
                    return
                await asyncio.sleep(_FOLLOW_SECONDS)
                change = asyncio.ensure_future(self._status.changed(seen))
                await asyncio.wait({gone, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
        finally:
            gone.cancel()


def _report_defect(task: asyncio.Task[None]) -> None:
    """Give the event loop's handler what Python 3.11 keeps until the task is collected."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler(
            {"message": "a command has failed", "exception": error, "task": task}
        )


def _bind(path: Path) -> socket.socket:
    private_directory(path.parent)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            path.unlink()
        with _reachable(path) as short:
            bound.bind(short)
    except OSError as error:
        bound.close()
        raise CannotCreate(f"cannot create the command socket {path}: {error}") from error
    return bound


class _reachable:  # noqa: N801  reads as a function
    """A name for a socket of any depth: an address of a Unix socket has room for 107 bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> str:
        self._fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _command(line: bytes) -> str:
    request = json.loads(line)
    command = request.get("command") if isinstance(request, dict) else None
    if not isinstance(command, str):
        raise ValueError('a request is a JSON object with a "command"')  # noqa: TRY004  bad input
    return command


def _line(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _shown(error: Exception) -> dict[str, object]:
    code = error.exit_code if isinstance(error, BuildsvcError) else 64
    return {"class": type(error).__name__, "text": str(error), "exit_code": code}


class RemoteError(BuildsvcError):
    """The sidecar refused a command; the exit code is that of its error."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]  # one class for every remote error


async def ask(root: Path, command: str) -> AsyncGenerator[Any, None]:
    """Send a command to the sidecar that works in ``root`` and yield its results.

    Raises EnvironmentUnfit when there is none or it stops before it has answered, RemoteError
    when it refuses.
    """
    path = socket_path(root)
    try:
        with _reachable(path) as short:
            reader, writer = await asyncio.open_unix_connection(short, limit=_ANSWER_LIMIT)
    except OSError as error:
        raise EnvironmentUnfit(
            f"no sidecar answers at {path}",
            expected="a running `sidecar run` with this root and user",
            found=error.strerror or str(error),
            advice="start one, or say which with --root",
        ) from error
    answered = False
    try:
        writer.write(_line({"command": command}))
        await writer.drain()
        async for line in reader:
            answer = json.loads(line)
            if "error" in answer:
                raise RemoteError(answer["error"]["text"], answer["error"]["exit_code"])
            answered = True
            yield answer["result"]
    except ConnectionError as error:
        raise EnvironmentUnfit(f"the sidecar stopped in the middle of {command}") from error
    finally:
        writer.close()
    if not answered:
        raise EnvironmentUnfit(f"the sidecar stopped in the middle of {command}")
