"""What the daemon tells of its builds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import grpc.aio

from buildsvc.log import get_logger
from sidecar.buildkit import BuildFinished, BuildKit, BuildStarted
from sidecar.room import Room
from sidecar.status import Status
from sidecar.timeline import Kind, Span

log = get_logger(__name__)

_DIED = "buildkitd died"
_UNTOLD = "buildkitd has not stored how it ended, as where there is no space left on device"
_LOOK_AGAIN = 3.0
"""Seconds between two questions while builds run: no event tells of an end that is not stored."""


class Finished:
    """The builds that ended, in that order; each reader counts how many it knows."""

    def __init__(self) -> None:
        self._all: list[BuildFinished] = []
        self._more = asyncio.Event()

    def add(self, build: BuildFinished) -> None:
        """A build ended."""
        self._all.append(build)
        self._more.set()
        self._more = asyncio.Event()

    def after(self, known: int) -> Sequence[BuildFinished]:
        """Those after the first ``known``."""
        return self._all[known:]

    async def next(self, known: int) -> BuildFinished:
        """Wait until there are more than ``known`` and return the first of those."""
        while len(self._all) <= known:
            await self._more.wait()
        return self._all[known]


class Builds:
    """Follows builds from their start to their end, which goes into ``finished``.

    ``told`` is called with the number of builds that run when it is another. ``lacked_room`` is
    called when one failed on a full disk, and answers why the root is given up then, or nothing.
    """

    def __init__(
        self,
        api: BuildKit,
        status: Status,
        room: Room,
        *,
        told: Callable[[int], None],
        lacked_room: Callable[[], str],
    ) -> None:
        self._api = api
        self._status = status
        self._room = room
        self._told = told
        self._lacked_room = lacked_room
        self._spans: dict[str, Span] = {}
        self._running = asyncio.Event()
        self._ended: set[str] = set()
        #: Ends of builds, for whoever decides about publishing.
        self.finished = Finished()

    def pass_over(self, earlier: Iterable[str]) -> None:
        """Take no notice of these: earlier pods' builds are no news."""
        self._ended.update(earlier)

    async def active(self) -> frozenset[str]:
        """Refs of the builds under way; of those that ended, ``finished`` knows all afterwards.

        A client can see its build's end before the daemon's event has come here. Of each build
        that is returned, ``finished`` gets the end after that: who counts first does not miss it.
        """
        known = frozenset(self._spans)
        try:
            active = await self._api.active_builds()
            for build in await self._api.ended_builds():
                self._take(build)
        except grpc.aio.AioRpcError:
            # The daemon is gone, and its builds with it.
            return frozenset()
        for ref in known - active - self._ended:
            # On a full disk BuildKit forgets a build whose record it cannot write.
            self._take(BuildFinished(ref, 0.0, 0, 0, _UNTOLD, made=False))
        # It may have answered before the last of them ended.
        active -= self._ended
        for ref in active:
            self._take(BuildStarted(ref))
        return active

    async def follow(self) -> None:
        """Take the daemon's events until it is gone or going."""
        with suppress(grpc.aio.AioRpcError):
            async for event in self._api.builds():
                self._take(event)

    async def look_after(self) -> None:
        """While builds run, ask from time to time whether they still do, until cancelled."""
        while True:
            await self._running.wait()
            await asyncio.sleep(_LOOK_AGAIN)
            await self.active()

    def died(self) -> None:
        """The daemon ended, and what it built with it."""
        for ref, span in self._spans.items():
            span.end("failed", error=_DIED)
            self._ended.add(ref)
            self.finished.add(BuildFinished(ref, 0.0, 0, 0, _DIED, made=False))
        self._spans.clear()
        self._changed()

    def _take(self, event: BuildStarted | BuildFinished) -> None:
        running = len(self._spans)
        if isinstance(event, BuildStarted):
            # Its end may be known from an answer that came before this event.
            if event.ref not in self._spans and event.ref not in self._ended:
                self._spans[event.ref] = self._status.begin(Kind.BUILD, event.ref)
                log.info("build started", ref=event.ref)
        elif event.ref not in self._ended:
            # BuildKit tells of the end again when it has stored the log, 3 s later.
            self._ended.add(event.ref)
            self._end(event)
        if len(self._spans) != running:
            self._changed()

    def _changed(self) -> None:
        if self._spans:
            self._running.set()
        else:
            self._running.clear()
        self._told(len(self._spans))

    def _end(self, event: BuildFinished) -> None:
        event, doomed = self._judged(event)
        span = self._spans.pop(event.ref, None)
        if span is None:
            span = self._status.begin(Kind.BUILD, event.ref)
        span.end(
            "failed" if event.error else "ok",
            seconds=round(event.seconds, 3),
            steps_cached=event.steps_cached,
            steps_total=event.steps_total,
            error=event.error,
        )
        if doomed:
            # At once, since whoever ran the build asks now; the root goes a little later.
            self._status.gives_up_root(doomed)
        log.info(
            "build ended",
            ref=event.ref,
            seconds=round(event.seconds, 3),
            cached=f"{event.steps_cached}/{event.steps_total}",
            error=event.error,
        )
        self.finished.add(event)

    def _judged(self, event: BuildFinished) -> tuple[BuildFinished, str]:
        """Look whether the build lacked room, which is not its own fault on a restored root.

        On a full disk the daemon cannot store the error, and tells of a success without a result.
        Return the event as it should be told, and why the root is given up, if it is.
        """
        if (event.made and not event.error) or not self._room.failed_for_want_of_it(event.error):
            return event, ""
        log.error("a build failed on a full disk", ref=event.ref, free=self._room.free)
        return replace(event, error=event.error or "the disk is full"), self._lacked_room()
