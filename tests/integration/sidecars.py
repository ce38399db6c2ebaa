"""Sidecars as processes of their own, for tests.

A :class:`Pod` is one sidecar on one root directory, run as the current user with flags as a
pod's specification would give them. Everything else here is what a test does to it: build,
read the status, take a checkpoint, stop it, kill it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from sidecar.client import wait_ready
from sidecar.control import ask
from tests.integration.buildctl import Build, Running, job
from tests.integration.commands import PATIENCE, Finished, command, environment, remove
from tests.integration.proctree import below, command_line, parent

#: Seconds within which a client is answered, whatever the cache does (README).
ANSWERED_WITHIN = 5.0

State = dict[str, Any]


class Pod:
    """One sidecar. Leave the context, and it is killed and its root deleted."""

    def __init__(
        self,
        root: Path,
        *flags: str | Path,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        """``prefix``: what the command line begins with, such as a program that runs another."""
        self.root = root
        self.flags = flags
        self._prefix = prefix
        self.env = environment(env)
        self.logs = root.with_name(f"{root.name}.log")
        self._builds = 0
        self.process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.kill()
        finally:
            sys.stderr.write(f"--- {self.root.name}: {self.log[-6000:]}\n")
            await remove(self.root)

    async def start(self) -> None:
        """Start the process; it is not waited for."""
        flags = [f"--root={self.root}", "--log-format=human"]
        given = [str(flag) for flag in self.flags]
        for name, value in {"listen": "127.0.0.1:0", "http-listen": "off"}.items():
            if not any(flag.startswith(f"--{name}=") for flag in given):
                flags.append(f"--{name}={value}")
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with self.logs.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self._prefix, sys.executable, "-m", "sidecar", "run", *flags, *given,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """Everything that it has logged, and the daemon under it."""
        return self.logs.read_text(errors="replace") if self.logs.exists() else ""

    async def ready(self) -> Self:
        """Wait until it serves builds; an exit instead is an error at once."""
        await self.while_running(wait_ready(self.root, PATIENCE))
        return self

    async def while_running(self, waiting: Any) -> None:
        """Wait for something, but not longer than the process lives."""
        assert self.process is not None
        task = asyncio.ensure_future(waiting)
        ended = asyncio.ensure_future(self.process.wait())
        try:
            await asyncio.wait([task, ended], return_when=asyncio.FIRST_COMPLETED)
            stopped = not task.done()
        finally:
            ended.cancel()
            task.cancel()
        if stopped:
            raise AssertionError(f"the sidecar ended: {self.process.returncode}\n{self.log}")
        task.result()

    async def ended(self) -> int:
        """Wait for the process' own end and return its exit code."""
        assert self.process is not None
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    def signal(self, number: int) -> None:
        """Send a signal to the sidecar's process."""
        assert self.process is not None
        self.process.send_signal(number)

    async def stop(self) -> int:
        """Stop it as a pod's end does and return its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """Kill the sidecar; guard, agent and daemon end by themselves, which is waited for."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        lock = self.root / "namespace.lock"
        if lock.exists():
            await command("flock", "--timeout", "30", lock, "true")

    # What it says

    async def status(self) -> State:
        """Return the status."""
        return await self.until(lambda _: True)

    async def until(self, condition: Callable[[State], bool]) -> State:
        """Follow the status until the condition holds; its timeline is always whole."""
        spans: dict[Any, State] = {}
        async with asyncio.timeout(PATIENCE):
            answers = ask(self.root, "follow")
            try:
                async for state in answers:
                    spans |= {span["id"]: span for span in state["timeline"]}
                    state["timeline"] = list(spans.values())
                    if condition(state):
                        return dict(state)
            finally:
                await answers.aclose()
        raise AssertionError(f"the sidecar ended before that was so\n{self.log}")

    async def published(self, number: int) -> State:
        """Wait until the generation of that number (or a later one) is published."""
        return await self.until(
            lambda state: bool(state["published"]) and state["published"]["number"] >= number
        )

    async def checkpoint(self) -> State:
        """Have it publish now and return the report."""
        async for report in ask(self.root, "checkpoint"):
            return dict(report)
        raise AssertionError("no report")

    async def metric(self, name: str) -> float:
        """Read a metric over HTTP; several values of one name are added up."""
        from aiohttp import ClientSession

        address = (await self.status())["http"]
        async with ClientSession() as session, session.get(f"{_url(address)}/metrics") as answer:
            text = await answer.text()
        found = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    # Builds

    def endpoint(self) -> State:
        """Return what the endpoint file says."""
        found: State = json.loads((self.root / "endpoint.json").read_text())
        return found

    async def start_build(
        self, context: Path, *options: str, client: Sequence[str] = ()
    ) -> Running:
        """Start a build of a directory with its Dockerfile."""
        self._builds += 1
        log = self.root.with_name(f"{self.root.name}.build-{self._builds}")
        connection = client or ("--addr", self.endpoint()["url"])
        with log.open("wb") as stream:
            child = await asyncio.create_subprocess_exec(
                "buildctl", *connection, *job(context, options),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment(),
            )  # fmt: skip
        return Running(child, log)

    async def try_build(self, context: Path, *options: str, client: Sequence[str] = ()) -> Build:
        """Build a directory with its Dockerfile, whatever comes of it."""
        return await (await self.start_build(context, *options, client=client)).end()

    async def build(self, context: Path, *options: str, client: Sequence[str] = ()) -> Build:
        """Build a directory with its Dockerfile, which must succeed."""
        return (await self.try_build(context, *options, client=client)).ok()

    async def export(self, context: Path, *options: str) -> Path:
        """Build and return the directory that the image's files are in."""
        place = self.root.with_name(f"{self.root.name}.out-{self._builds + 1}")
        await self.build(context, f"--output=type=local,dest={place}", *options)
        return place

    async def client(self, *arguments: str) -> Finished:
        """Run another command of buildctl."""
        return await command("buildctl", "--addr", self.endpoint()["url"], *arguments)

    # Its processes

    def agent(self) -> int:
        """Return the agent's pid: its workers have the same command line."""
        agents = self.children("sidecar.agent --root")
        (pid,) = [pid for pid in agents if parent(pid) not in agents]
        return pid

    def children(self, word: str) -> list[int]:
        """Return the pids below this sidecar whose command line has the word."""
        assert self.process is not None
        return [pid for pid in below(self.process.pid) if word in command_line(pid)]

    @property
    def epochs(self) -> list[Path]:
        """The roots that are there."""
        return sorted(self.root.glob("epoch-*"))


def _url(address: str) -> str:
    return address if address.startswith("http") else f"http://{address}"


@asynccontextmanager
async def pod(
    root: Path, *flags: str | Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Pod]:
    """Run a sidecar that serves builds for the time of a block."""
    async with Pod(root, *flags, env=env) as one:
        await one.ready()
        yield one
