"""Whether a build failed because the cache was lost under it, which only the sidecar knows."""

from __future__ import annotations

import asyncio
import time
from enum import Enum
from typing import Protocol

from buildsvc.imagebuild.sidecarstatus import Seen, StatusPage

#: Seconds in which the sidecar has noticed, and said, that it has lost its root.
_NOTICED = 1.5
#: The same where the daemon died, or no end of the build was told: the reason follows.
_EXPLAINED = 5.0
#: Seconds after which a sidecar that is not ready again is not waited for.
_AT_MOST = 30.0
_PAUSE = 0.1
#: What the sidecar says of a build whose daemon died, before it says why that died.
_DIED = "buildkitd died"


class Cause(Enum):
    """Why a build failed."""

    CACHE = "the cache was lost"
    OWN = "its own"
    SIDECAR = "the sidecar ended"
    UNKNOWN = "the sidecar does not say"


class Judge(Protocol):
    """What tells failures of the cache from those of builds."""

    async def begin(self) -> None:
        """A build is about to begin."""

    async def cause(self, ref: str) -> tuple[Cause, str]:
        """Return why the build that has just failed did, and the sidecar's words for it.

        ``ref`` is BuildKit's id of the build; empty for one that never began.
        """


class StatusJudge:
    """Looks at the sidecar's status."""

    def __init__(self, page: StatusPage) -> None:
        self._page = page
        self._began = 0.0
        self._before: Seen | None = None

    async def begin(self) -> None:
        """See :class:`Judge`."""
        self._before = await self._page.read(builds=False)
        self._began = time.time()

    async def cause(self, ref: str) -> tuple[Cause, str]:
        """See :class:`Judge`."""
        ended = time.monotonic()
        while True:
            now = await self._page.read()
            passed = time.monotonic() - ended
            if now is not None and self._lost(now):
                return Cause.CACHE, now.advice_detail
            if passed >= _AT_MOST or _settled(now, ref, passed):
                return self._other(now), ""
            await asyncio.sleep(_PAUSE)

    def _other(self, now: Seen | None) -> Cause:
        if self._before is None:
            return Cause.UNKNOWN
        same = now is not None and now.started_unix == self._before.started_unix
        return Cause.OWN if same else Cause.SIDECAR

    def _lost(self, now: Seen) -> bool:
        before = self._before
        if before is None:
            return False
        # The number never goes back, whatever other builds did meanwhile; a sidecar that was
        # started again counts from 0, and has no advice.
        if now.roots_lost > before.roots_lost:
            return True
        return now.run_again and now.advice_unix >= self._began


def _settled(now: Seen | None, ref: str, passed: float) -> bool:
    """Whether the sidecar has nothing to add: it serves builds, and knows how this one ended."""
    if now is None:
        return passed >= _NOTICED
    build = now.builds.get(ref)
    told = build is None or (build.outcome != "" and build.error != _DIED)
    return now.ready and passed >= (_NOTICED if told else _EXPLAINED)
