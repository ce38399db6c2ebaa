"""Credentials that are renewed before they end, by one request at a time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from buildsvc.errors import StoreUnavailable
from buildsvc.store.httpconnection import Call
from buildsvc.store.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from buildsvc.store.osscredentials import Credentials, CredentialSource

WITHIN = 15.0
"""Seconds for one renewal."""

PAUSE = 10.0
"""Seconds between a renewal that failed and the next one, while the credentials still hold."""

_LEFT = 60.0
"""Seconds: credentials with less left are not used, because the request has to arrive."""


class RenewedCredentials:
    """The credentials of ``source``, asked for with the first use.

    While old ones hold, they are used and a renewal runs beside; only without any does a caller
    wait, all of them for the same renewal. A caller that is cancelled does not end it: others may
    wait. ``clock`` gives seconds since the epoch.
    """

    def __init__(self, source: CredentialSource, *, clock: Callable[[], float] = time.time) -> None:
        self._source = source
        self._clock = clock
        self._threads = Threads(1, "oss-credentials")
        self._held: Credentials | None = None
        self._renewal: asyncio.Task[Credentials] | None = None
        self._pause_ends = 0.0

    async def current(self) -> Credentials:
        """Return credentials that hold; raises ``StoreUnavailable``, ``StoreRefused``."""
        now = self._clock()
        held = self._held
        if held is not None and now < held.renew:
            return held
        usable = held is not None and now < held.ends - _LEFT
        if self._renewal is None and not (usable and now < self._pause_ends):
            self._renewal = asyncio.create_task(self._renew(), name="oss-credentials")
            self._renewal.add_done_callback(self._renewed)
        if usable and held is not None:
            return held
        assert self._renewal is not None
        return await _outcome(self._renewal)

    def reject(self, credentials: Credentials) -> bool:
        """OSS does not accept them (any more); whether the next ones may be others."""
        if self._held is credentials:
            self._held = None
        return self._source.renews

    async def close(self) -> None:
        """End a renewal under way."""
        renewal = self._renewal
        if renewal is not None:
            renewal.cancel()
            await asyncio.wait([renewal])
        self._threads.close()

    async def _renew(self) -> Credentials:
        call = Call()
        limit = asyncio.timeout(WITHIN)
        try:
            async with limit:
                return await self._threads.run(self._source.fetch, call, self._clock())
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise StoreUnavailable("there were no credentials in time") from error
        finally:
            call.end()

    def _renewed(self, renewal: asyncio.Task[Credentials]) -> None:
        self._renewal = None
        if renewal.cancelled():
            return
        if renewal.exception() is None:
            self._held = renewal.result()
        else:
            # Who waits for it gets the error; nobody else needs it before the old ones end.
            self._pause_ends = self._clock() + PAUSE


async def _outcome(renewal: asyncio.Task[Credentials]) -> Credentials:
    """What comes of it, whoever else waits for it as well.

    Raises:
        StoreUnavailable: the store was closed meanwhile.
    """
    try:
        return await asyncio.shield(renewal)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if caller is not None and caller.cancelling():
            raise
        # It is the renewal that was cancelled; who waits must not look as if it were.
        raise StoreUnavailable("the store was closed before there were credentials") from None
