"""A proxy before an object store: now and then it refuses, throttles, or breaks the connection."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Self

from aiohttp import ClientSession, web
from yarl import URL

from tests.unit.store.serving import serving

#: Of one hop only (RFC 9110, 7.6.1), or set by whoever sends.
_OWN = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"})


@dataclass(frozen=True)
class Shares:
    """Of the requests, how many fare how; half of the resets come after it was carried out."""

    unavailable: float = 0.10
    throttled: float = 0.05
    reset: float = 0.15


@dataclass
class Weather:
    """What happens to the requests; ``counts`` is what has happened."""

    store: str
    chance: random.Random
    shares: Shares = field(default_factory=Shares)
    counts: Counter[str] = field(default_factory=Counter)
    url: str = ""
    _session: ClientSession = field(init=False)
    fair: bool = False
    """Whether everything passes."""

    @asynccontextmanager
    async def blowing(self) -> AsyncIterator[Self]:
        """Serve at ``url``."""
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._pass)
        async with ClientSession(auto_decompress=False) as session, serving(application) as url:
            self._session, self.url = session, url
            yield self

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        if self.fair:
            return await self._ask(request)
        outcome = self._outcome(self.chance.random())
        self.counts[outcome] += 1
        if outcome == "unavailable":
            return web.Response(status=503, text="slow down")
        if outcome == "throttled":
            return web.Response(status=429, headers={"Retry-After": "1"})
        if outcome == "reset_before":
            return _broken(request)
        answer = await self._ask(request)
        return _broken(request) if outcome == "reset_after" else answer

    def _outcome(self, drawn: float) -> str:
        shares = self.shares
        for name, share in (
            ("unavailable", shares.unavailable),
            ("throttled", shares.throttled),
            ("reset_before", shares.reset / 2),
            ("reset_after", shares.reset / 2),
        ):
            if drawn < share:
                return name
            drawn -= share
        return "passed"

    async def _ask(self, request: web.Request) -> web.Response:
        headers = [(name, value) for name, value in request.headers.items()
                   if name.lower() not in _OWN]  # fmt: skip
        target = URL(self.store + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, target,
            headers=headers, data=await request.read(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            allow_redirects=False,
        ) as answer:  # fmt: skip
            kept = [(name, value) for name, value in answer.headers.items()
                    if name.lower() not in _OWN]  # fmt: skip
            return web.Response(status=answer.status, body=await answer.read(), headers=dict(kept))


def _broken(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
