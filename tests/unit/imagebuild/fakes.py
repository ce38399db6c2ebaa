"""Stand-ins for what the step is put together of. Each passes the contract of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildsvc.errors import EnvironmentUnfit
from buildsvc.imagebuild.errors import RegistryUnavailable
from buildsvc.imagebuild.sidecarstatus import Seen


@dataclass
class FakeStatus:
    """A status page that says one thing after the other, the last of them for good."""

    says: list[Seen | None]
    reads: int = 0

    async def read(self, *, builds: bool = True) -> Seen | None:
        await asyncio.sleep(0)
        self.reads += 1
        seen = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        return replace(seen, builds={}) if seen and not builds else seen


@dataclass
class FakeRunner:
    """A program that ends with one code after the other; ``does`` is called for each run."""

    codes: list[int]
    answers: list[tuple[int, str]] = field(default_factory=lambda: [(0, "")])
    does: Callable[[Sequence[str]], None] = lambda _: None
    ran: list[list[str]] = field(default_factory=list)
    environments: list[Mapping[str, str]] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    hangs: bool = False
    missing: bool = False

    async def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
        if self.missing:
            raise EnvironmentUnfit("buildctl cannot be started")
        self.ran.append([*arguments])
        self.environments.append(environment)
        self.does(arguments)
        self.started.set()
        if self.hangs:
            await asyncio.Event().wait()
        return self.codes.pop(0)

    async def ask(
        self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float
    ) -> tuple[int, str]:
        if self.missing:
            raise EnvironmentUnfit("buildctl cannot be started", found=str(arguments))
        self.environments.append(environment)
        if self.hangs:
            async with asyncio.timeout(timeout):
                await asyncio.Event().wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@dataclass
class FakeRegistry:
    """A registry with these digests by ``path:reference``; the first answers may fail."""

    digests: dict[str, str]
    failures: list[Exception] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def digest(self, path: str, reference: str) -> str | None:
        self.asked.append(reference)
        if self.failures:
            raise self.failures.pop(0)
        return self.digests.get(f"{path}:{reference}")


def unavailable() -> RegistryUnavailable:
    return RegistryUnavailable("the registry gave no usable answer", found="HTTP 503")


def script(path: Path, text: str) -> Path:
    """Write a program in sh."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
