"""Sidecars as processes of their own, and clients of them, for tests.

A :class:`Pod` is one sidecar on one root directory, run as the current user with flags as a
pod's specification would give them. Everything else here is what a test does to it: build,
read the status, take a checkpoint, stop it, kill it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from perf.build import Step, read_progress
from sidecar.client import wait_ready
from sidecar.control import ask

#: Seconds after which something is stuck; nothing here is a measurement.
PATIENCE = 60.0
#: Seconds within which a client is answered, whatever the cache does (README).
ANSWERED_WITHIN = 5.0

State = dict[str, Any]


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process' environment without settings meant for another sidecar."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BUILDSVC_")}
    return {**kept, **(extra or {})}


@dataclass(frozen=True)
class Finished:
    """A program that ended."""

    code: int
    out: str
    err: str


async def command(
    *argv: str | Path, env: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> Finished:
    """Run a program to its end; it is killed when that takes longer than anything here should."""
    child = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(env),
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await child.communicate(stdin)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return Finished(
        child.returncode or 0, out.decode(errors="replace"), err.decode("utf-8", "replace")
    )


async def sidecar(*argv: str | Path, env: Mapping[str, str] | None = None) -> Finished:
    """Run one command of the sidecar to its end."""
    return await command(sys.executable, "-m", "sidecar", *argv, env=env)


class BuildFailed(AssertionError):
    """A build that should have succeeded did not."""


@dataclass(frozen=True)
class Build:
    """A build that ended. ``steps`` are the Dockerfile's, ``output`` what its RUN steps wrote."""

    code: int
    steps: list[Step]
    output: str
    text: str

    @property
    def ran(self) -> list[str]:
        """Names of the steps that were not cached, without their numbers."""
        return [_plain(step.name) for step in self._instructions if not step.cached]

    @property
    def cached(self) -> list[str]:
        """Names of the steps that were cached, without their numbers."""
        return [_plain(step.name) for step in self._instructions if step.cached]

    @property
    def _instructions(self) -> list[Step]:
        # "LINK COPY …" is the merge beside "COPY --link …".
        return [step for step in self.steps if not _plain(step.name).startswith("LINK ")]

    def ok(self) -> Self:
        """Return itself if the build succeeded."""
        if self.code:
            errors = [f"{step.name}: {step.error}" for step in self.steps if step.error]
            raise BuildFailed("\n".join([f"buildctl: {self.code}", *errors, self.text[-2000:]]))
        return self


def _plain(name: str) -> str:
    """Take "[stage 2/7] " off a step's name."""
    return name.partition("] ")[2]


def _job(context: Path, options: Sequence[str]) -> list[str]:
    return [
        "build",
        "--progress=rawjson",
        "--frontend=dockerfile.v0",
        f"--local=context={context}",
        f"--local=dockerfile={context}",
        *options,
    ]


class Running:
    """A build under way."""

    def __init__(self, child: asyncio.subprocess.Process, logs: Path) -> None:
        self._child = child
        self._logs = logs

    async def end(self) -> Build:
        """Wait for the end."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._child.wait()
        finally:
            if self._child.returncode is None:
                self._child.kill()
                await self._child.wait()
        text = self._logs.read_text(errors="replace")
        progress = read_progress(text.splitlines())
        return Build(
            self._child.returncode or 0,
            progress.instructions,
            progress.output.decode(errors="replace"),
            "\n".join(line for line in text.splitlines() if not line.startswith("{")),
        )

    async def says(self, word: str) -> None:
        """Wait until a RUN step of the build has written the word."""
        async with asyncio.timeout(PATIENCE):
            while word not in read_progress(self._finished_lines()).output.decode():
                if self._child.returncode is not None:
                    raise BuildFailed(f"ended without saying {word}: {(await self.end()).text}")
                await asyncio.sleep(0.02)  # The file has no event that says so.

    def _finished_lines(self) -> list[str]:
        return self._logs.read_text(errors="replace").rpartition("\n")[0].splitlines()


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
                "buildctl", *connection, *_job(context, options),
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


def command_line(pid: int) -> str:
    """Return a process' command line, empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def parent(pid: int) -> int:
    """Return a process' parent, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return 0


def below(pid: int) -> list[int]:
    """Return the descendants of a process."""
    # Not from /proc/PID/task/*/children: that may miss some while others end.
    parents = {one: parent(one) for one in map(int, filter(str.isdigit, os.listdir("/proc")))}
    found, wanted = list[int](), {pid}
    while wanted:
        wanted = {one for one, of in parents.items() if of in wanted}
        found += wanted
    return found


async def remove(directory: Path) -> None:
    """Delete a directory that may hold files of subordinate users."""
    if directory.exists():
        await command("rootlesskit", "rm", "-rf", directory)


@asynccontextmanager
async def pod(
    root: Path, *flags: str | Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[Pod]:
    """Run a sidecar that serves builds for the time of a block."""
    async with Pod(root, *flags, env=env) as one:
        await one.ready()
        yield one


# What is built


def context(
    directory: Path, dockerfile: str, files: Mapping[str, str | bytes] | None = None
) -> Path:
    """Write a build context with busybox in it and return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    busybox = directory / "busybox"
    if not busybox.exists():
        found = shutil.which("busybox")
        assert found, "there is no busybox (package busybox-static)"
        shutil.copy(found, busybox)
    (directory / "Dockerfile").write_text(dockerfile)
    write(directory, files or {})
    return directory


def write(directory: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files below a directory."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


BASE = """\
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
"""
