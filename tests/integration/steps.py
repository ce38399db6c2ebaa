"""The image-build step as tests run it: the real command, beside a pod of theirs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.integration.commands import PATIENCE, Finished, environment
from tests.integration.sidecars import Pod

#: Of a pod whose status the step is to read.
HTTP = "--http-listen=127.0.0.1:0"


class RunningStep:
    """A step under way; what it says goes to a file."""

    def __init__(self, child: asyncio.subprocess.Process, log: Path) -> None:
        self._child = child
        self._log = log

    @property
    def text(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The step's own process."""
        return self._child.pid

    async def says(self, word: str) -> None:
        """Wait until it, or the build, has said the word."""
        async with asyncio.timeout(PATIENCE):
            while word not in self.text:
                assert self._child.returncode is None, f"ended without {word}:\n{self.text}"
                await asyncio.sleep(0.02)  # The file has no event that says so.

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._child.send_signal(number)

    async def end(self) -> Finished:
        """Wait for its end."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._child.wait()
        finally:
            if self._child.returncode is None:
                self._child.kill()
                await self._child.wait()
        return Finished(self._child.returncode or 0, "", self.text)


async def start_step(
    directory: Path, *flags: str | Path, env: Mapping[str, str] | None = None
) -> RunningStep:
    """Start ``python -m buildsvc image-build``; its home has no credentials."""
    number = len(list(directory.glob("step-*.log")))
    log = directory / f"step-{number}.log"
    home = directory / "home"
    home.mkdir(exist_ok=True)
    with log.open("wb") as stream:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "buildsvc", "image-build", *flags,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment({"HOME": str(home), "PYTHONPATH": os.getcwd(), **(env or {})}),
        )  # fmt: skip
    return RunningStep(child, log)


async def step(
    directory: Path, *flags: str | Path, env: Mapping[str, str] | None = None
) -> Finished:
    """Run the step to its end."""
    return await (await start_step(directory, *flags, env=env)).end()


async def beside(one: Pod) -> list[str]:
    """Return the flags by which a step finds a pod's sidecar."""
    status = await one.status()
    url = f"http://{status['http']}" if status["http"] else "off"
    return [f"--endpoint-file={one.root / 'endpoint.json'}", f"--status-url={url}"]


def result(path: Path) -> dict[str, object]:
    """Read a result file."""
    found: dict[str, object] = json.loads(path.read_text())
    return found
