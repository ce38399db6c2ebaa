"""Keeps the serving certificate: makes it, shares it, has it trusted, and replaces it in time.

Each replica does all of it, pass after pass, without a leader: the Secret says what is so, and the
API server lets one of those who change it at one moment win.

A rotation, so that nobody ever serves what is not trusted:

1. With a third of its life left, a next pair is put beside the current one, and its authority
   beside those that are trusted.
2. The webhook configuration is made to trust all of them.
3. When it has been seen to do so for a while, in which every API server has noticed, the next pair
   becomes the current one. Replicas take it into use with their next pass.
4. The old authority stays trusted until it ends: a replica that has not passed yet serves the old
   pair.

An older bundle cannot replace a newer one: the configuration is read before the Secret, and written
only if it is still as it was read.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from buildsvc.log import get_logger
from buildsvc.webhook.certificates import Keeping, Pair, make_pair, new_keeping, utc_now
from buildsvc.webhook.cluster import Cluster, ClusterError, Conflict, Missing, Secret, Trusting
from buildsvc.webhook.metrics import Metrics

_log = get_logger(__name__)

#: Seconds from one pass to the next.
_INTERVAL = 60.0
#: Seconds that all API servers have to notice what a configuration trusts.
SETTLE = 300.0
#: Seconds after a failure, doubled with each, up to the interval.
_RETRY = 1.0


@dataclass(frozen=True)
class _Seen:
    """A bundle, and since when the configuration has been seen to trust it."""

    bundle: bytes
    since: float


class CertificateKeeper:
    """Keeps what one replica serves. ``serve`` takes a pair into use, each one once."""

    def __init__(
        self,
        cluster: Cluster,
        names: Sequence[str],
        lifetime: timedelta,
        *,
        serve: Callable[[Pair], None],
        metrics: Metrics,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._names = names
        self._lifetime = lifetime
        self._serve = serve
        self._metrics = metrics
        self._now = now
        self._clock = clock
        self._seen: _Seen | None = None
        self._served: Pair | None = None
        #: What keeps the API servers from asking this webhook; "" when nothing does.
        self.problem = "the certificate is not there yet"

    async def run(self) -> None:
        """Keep it until cancelled."""
        failures = 0
        while True:
            try:
                await self.keep()
                failures, pause = 0, _INTERVAL
            except Conflict:
                # Another replica did what was to be done, or something else; its turn was first.
                pause = _RETRY
            except ClusterError as error:
                failures += 1
                pause = min(_INTERVAL, _RETRY * 2.0**failures)
                self._metrics.keeping_failed()
                _log.warning("the certificate cannot be kept", error=error, again_in=pause)
            # Replicas that began together need not meet again each time.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  no secret

    async def keep(self) -> None:
        """Do what is to be done now. Raises ClusterError, and Conflict where another was first."""
        try:
            await self._pass()
        except ClusterError as error:
            # One that is trusted already stays so while the API server is away.
            if self.problem:
                self.problem = str(error)
            raise

    async def _pass(self) -> None:
        trusting = await self._trusting()
        secret = await self._cluster.read_secret()
        keeping = await self._current(secret)
        if keeping.next is not None and self._is_settled(keeping, trusting):
            secret = await self._cluster.read_secret()
            if Keeping.read(secret.data) != keeping:
                raise Conflict("the Secret has changed")
            keeping = keeping.advanced()
            await self._cluster.write_secret(secret, keeping.data())
            _log.info("the next certificate is the current one")
        self._use(keeping.current)
        if trusting is None:
            self.problem = "there is no webhook configuration of the name in --configuration"
            return
        if any(bundle != keeping.trusted for bundle in trusting.bundles):
            await self._cluster.write_trusting(trusting, keeping.trusted)
            _log.info("the webhook configuration trusts the certificate")
        self.problem = ""

    async def _trusting(self) -> Trusting | None:
        try:
            return await self._cluster.read_trusting()
        except Missing:
            return None

    async def _current(self, secret: Secret) -> Keeping:
        """Return what the Secret has, or what it has after it was made good."""
        now = self._now()
        keeping = Keeping.read(secret.data)
        if keeping is None or not keeping.current.fits(self._names, now):
            before = secret.data.get("ca.crt", b"")
            made = await asyncio.to_thread(new_keeping, self._names, self._lifetime, now, before)
            _log.info("made a certificate", names=self._names)
        elif keeping.next is not None:
            if keeping.next.fits(self._names, now):
                return keeping
            made = replace(keeping, next=None)
        elif keeping.current.ends_soon(now):
            pair, authority = await asyncio.to_thread(make_pair, self._names, self._lifetime, now)
            made = keeping.with_next(pair, authority, now)
            _log.info("made the next certificate", ends=keeping.current.ends)
        else:
            return keeping
        await self._cluster.write_secret(secret, made.data())
        return made

    def _is_settled(self, keeping: Keeping, trusting: Trusting | None) -> bool:
        bundle = keeping.trusted
        if trusting is None or any(one != bundle for one in trusting.bundles):
            self._seen = None
            return False
        if self._seen is None or self._seen.bundle != bundle:
            self._seen = _Seen(bundle, self._clock())
        return self._clock() - self._seen.since >= SETTLE

    def _use(self, pair: Pair) -> None:
        if pair != self._served:
            self._serve(pair)
            self._served = pair
            self._metrics.serves(pair.ends.timestamp())
            _log.info("serve a certificate", ends=pair.ends)
