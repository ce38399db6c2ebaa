"""Waits for the sidecar, and says what it is waiting for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from buildsvc.imagebuild.endpoint import Endpoint, NotThereYet
from buildsvc.imagebuild.errors import SidecarMissing
from buildsvc.imagebuild.runner import Runner
from buildsvc.imagebuild.sidecarstatus import StatusPage

#: Seconds between two looks at files and at the status page.
_PAUSE = 0.1
#: Seconds after which it is said again what is waited for.
_SAY_AGAIN = 10.0
#: Seconds that a daemon which is there may take for an answer: clients of a cold one wait for 5.
_ANSWER = 20.0

Say = Callable[[str], None]


class Finder(Protocol):
    """Who knows how to connect."""

    def find(self) -> Endpoint:
        """Return it. Raises NotThereYet, or ConfigError."""


class Waiter(Protocol):
    """What waits until builds can begin."""

    async def wait(self) -> Endpoint:
        """Return how to connect.

        Raises:
            SidecarMissing: it took too long.
            ConfigError: what is there cannot be what is waited for.
        """


class SidecarWaiter:
    """Waits up to ``limit`` seconds: for its files, its readiness, and the daemon's answer."""

    def __init__(
        self,
        finder: Finder,
        status: StatusPage,
        buildctl: Runner,
        environment: Mapping[str, str],
        *,
        limit: float,
        say: Say,
    ) -> None:
        self._finder = finder
        self._status = status
        self._buildctl = buildctl
        self._environment = environment
        self._limit = limit
        self._say = say

    async def wait(self) -> Endpoint:
        """See :class:`Waiter`."""
        began = time.monotonic()
        shown = _Shown(self._say, began)
        try:
            async with asyncio.timeout(self._limit):
                endpoint = await self._connected(shown)
        except TimeoutError:
            raise self._missing(shown.reason) from None
        if shown.said:
            self._say(f"the sidecar is ready after {time.monotonic() - began:.1f} s")
        return endpoint

    async def _connected(self, shown: _Shown) -> Endpoint:
        while True:
            try:
                endpoint = self._finder.find()
            except NotThereYet as missing:
                shown.waits(f"waiting for the sidecar: {missing}")
            else:
                seen = await self._status.read(builds=False)
                if seen is not None and not seen.ready:
                    what = seen.waiting_for or seen.phase
                    shown.waits(f"the sidecar at {endpoint.url}: {what}")
                elif not (reason := await self._refuses(endpoint)):
                    return endpoint
                else:
                    shown.waits(f"waiting for the sidecar at {endpoint.url}: {reason}")
            await asyncio.sleep(_PAUSE)

    async def _refuses(self, endpoint: Endpoint) -> str:
        """Ask the daemon for its version; return why there is none, or nothing."""
        arguments = [*endpoint.flags, "debug", "info"]
        try:
            code, text = await self._buildctl.ask(arguments, self._environment, _ANSWER)
        except TimeoutError:
            return f"no answer within {_ANSWER:g} s"
        last = text.strip().splitlines()[-1:] or [f"buildctl ended with {code}"]
        return last[0].removeprefix("error: ") if code else ""

    def _missing(self, reason: str) -> SidecarMissing:
        return SidecarMissing(
            "no sidecar serves builds",
            expected=f"an answer within {self._limit:g} s (--wait)",
            found=reason or "nothing",
            advice="look whether the pod has the sidecar's container and what its log says; "
            "--address and --endpoint-file say where it is. With mutual TLS its volume, at "
            "/run/buildsvc in both, has the certificates",
        )


class _Shown:
    """Says what is waited for, when that changes or has lasted."""

    def __init__(self, say: Say, began: float) -> None:
        self._say = say
        self._began = began
        self._when = began
        self.reason = ""
        self.said = False

    def waits(self, reason: str) -> None:
        now = time.monotonic()
        if reason == self.reason and now - self._when < _SAY_AGAIN:
            return
        self.reason, self._when, self.said = reason, now, True
        self._say(f"{reason} ({now - self._began:.0f} s)")
