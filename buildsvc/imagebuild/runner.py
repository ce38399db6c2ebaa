"""Runs buildctl: in a process group of its own, on our terminal, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from buildsvc.errors import EnvironmentUnfit

#: Seconds that buildctl has to end a build when it is told to.
_ENDING = 10.0


class Runner(Protocol):
    """What runs a program. Cancelling it ends the program first, in its own way if it can."""

    async def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run the program on our standard error and return its exit code.

        A program that a signal ended gives 128 and the signal's number, as in a shell.

        Raises:
            EnvironmentUnfit: it cannot be started.
        """

    async def ask(
        self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float
    ) -> tuple[int, str]:
        """Run it aside within ``timeout`` seconds; return exit code and what it wrote.

        Raises:
            EnvironmentUnfit: it cannot be started.
            TimeoutError: it took longer, and was killed.
        """


class Buildctl:
    """The program of that name or path. ``told`` knows the signal that ends the step.

    ``ending``: seconds that the program has to end when it is told to.
    """

    def __init__(self, program: str, told: Told, *, ending: float = _ENDING) -> None:
        self._program = program
        self._told = told
        self._ending = ending

    async def run(self, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
        """See :class:`Runner`."""
        child = await self._start(arguments, environment, None)
        try:
            return _code(await child.wait())
        except asyncio.CancelledError:
            await self._end(child)
            raise

    async def ask(
        self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float
    ) -> tuple[int, str]:
        """See :class:`Runner`."""
        child = await self._start(arguments, environment, asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(timeout):
                out, _ = await child.communicate()
        finally:
            if child.returncode is None:
                _kill(child, signal.SIGKILL)
                await child.wait()
        return _code(child.returncode or 0), out.decode(errors="replace")

    async def _start(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: int | None
    ) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                self._program, *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT if output else None,
                env=environment,
                # A terminal's Ctrl-C comes to the step, which passes it on once.
                process_group=0,
            )  # fmt: skip
        except OSError as error:
            raise EnvironmentUnfit(
                "buildctl cannot be started",
                expected="BuildKit's client",
                found=f"{self._program}: {error.strerror}",
                advice="use the image of buildsvc's step, or set --buildctl",
            ) from error

    async def _end(self, child: asyncio.subprocess.Process) -> None:
        """End it with the signal that the step got; a second one, or its delay, kills it."""
        _kill(child, self._told.signal or signal.SIGTERM)
        try:
            async with asyncio.timeout(self._ending):
                await child.wait()
        except (TimeoutError, asyncio.CancelledError):
            pass
        finally:
            # Also what of its group has not taken the signal for meant.
            _kill(child, signal.SIGKILL)
            await child.wait()


class Told(Protocol):
    """Who knows which signal the step got."""

    signal: int
    """Its number, 0 for none."""


def _kill(child: asyncio.subprocess.Process, number: int) -> None:
    # Its group: helpers of Docker's credentials are its children.
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _code(returncode: int) -> int:
    return returncode if returncode >= 0 else 128 - returncode
