"""Checks that the registry has what was pushed, by digest and under each tag."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential_jitter,
)

from buildsvc.errors import BuildsvcError
from buildsvc.imagebuild.errors import NotInRegistry, RegistryUnavailable
from buildsvc.imagebuild.names import ImageNames
from buildsvc.imagebuild.registry import Registry

Say = Callable[[str], None]


class Verifier(Protocol):
    """What makes sure of a push."""

    async def verify(self, names: ImageNames, digest: str) -> None:
        """Return when the registry shows the digest under each name.

        Raises:
            NotInRegistry: it has not, or something else is there.
            RegistryUnavailable, RegistryRefused, ConfigError: it cannot be asked.
        """


class NoVerifier:
    """For ``--verify=off``, and where nothing is pushed."""

    async def verify(self, names: ImageNames, digest: str) -> None:
        """Take it as it is."""


class RegistryVerifier:
    """Asks the registry, again within ``limit`` seconds in all while the answer is wrong.

    ``registry`` is made when it is needed: credentials may be young then. Of names that were just
    pushed a registry of several machines can know late.
    """

    def __init__(
        self, registry: Callable[[], Awaitable[Registry]], *, limit: float, say: Say
    ) -> None:
        self._registry = registry
        self._limit = limit
        self._say = say

    async def verify(self, names: ImageNames, digest: str) -> None:
        """See :class:`Verifier`."""
        registry = await self._registry()
        until = time.monotonic() + self._limit
        for reference in (digest, *names.tags):
            await self._shown(registry, names, reference, digest, until)

    async def _shown(
        self, registry: Registry, names: ImageNames, reference: str, digest: str, until: float
    ) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((NotInRegistry, RegistryUnavailable)),
            stop=stop_after_delay(max(until - time.monotonic(), 0.0)),
            wait=wait_exponential_jitter(multiplier=0.1, max=5.0, jitter=0.1),
            before_sleep=self._told,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                found = await registry.digest(names.path, reference)
                if found != digest:
                    raise self._missing(names, reference, digest, found)

    def _told(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if state.attempt_number == 1 and isinstance(error, BuildsvcError):
            self._say(f"asking the registry again: {str(error).partition(';')[0]}")

    def _missing(
        self, names: ImageNames, reference: str, digest: str, found: str | None
    ) -> NotInRegistry:
        separator = "@" if reference == digest else ":"
        return NotInRegistry(
            f"{names.repository}{separator}{reference} is not what was pushed",
            expected=f"{digest} within {self._limit:g} s (--verify-timeout)",
            found=found or "no such manifest",
            advice="another build may have pushed the same tag" if found else "push again, and "
            "look at the registry's log",
        )  # fmt: skip
