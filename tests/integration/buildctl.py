"""Builds as a test sees them: what ran, what was cached, what RUN steps wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from perf.build import Step, read_progress
from tests.integration.commands import PATIENCE


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


def job(context: Path, options: Sequence[str]) -> list[str]:
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
