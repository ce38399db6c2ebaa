"""When to take a checkpoint and publish it, and what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import grpc.aio

from buildsvc.cache.keys import CacheKey
from buildsvc.cache.publication import PacksCollected
from buildsvc.errors import BuildsvcError
from buildsvc.log import get_logger
from sidecar.buildkit import BuildFinished
from sidecar.checkpoint import NotIdle, Picture, expect_idle
from sidecar.control import CheckpointReport
from sidecar.epoch import Epoch
from sidecar.publish import Publisher
from sidecar.status import Generation, Phase, Status
from sidecar.timeline import Kind, Span

log = get_logger(__name__)

#: Seconds until the next try when the daemon was at work without a build: its own
#: collection runs 1 s after each one.
_AGAIN_AFTER = 1.0
#: Seconds between tries at most while the store fails, the daemon being idle.
_AGAIN_AT_MOST = 60.0
#: Tries before the end, each with the store's own retries: a store that is dead or refuses
#: would otherwise keep every pod for its whole grace period.
_LAST_TRIES = 3
#: Collections of the store that may come in between one publication.
_COLLECTIONS = 3
#: What a call ends with whose other end is not there any more.
_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass(frozen=True)
class Policy:
    """After which builds to publish: ``always``, ``on-success`` or ``never``.

    ``replaces``: the daemon started cold although there may be a generation. What a failed
    build leaves then must not replace it.
    """

    publish: str
    replaces: bool = False

    def wants(self, build: BuildFinished) -> bool:
        """Whether the build makes the state worth publishing."""
        if build.error and self.replaces:
            return False
        return self.publish == "always" or (self.publish == "on-success" and not build.error)


def _never() -> bool:
    return False


class Publishing:
    """Publishes one epoch's state: after builds, on request, and at the end."""

    def __init__(
        self,
        epoch: Epoch,
        publisher: Publisher,
        key: CacheKey,
        policy: Policy,
        status: Status,
    ) -> None:
        self._epoch = epoch
        self._publisher = publisher
        self._key = key
        self._policy = policy
        self._status = status
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[CheckpointReport]] = set()
        self._cold_seconds = 0.0
        #: Builds that ended, and those of them that are worth publishing.
        self._known = 0
        self._ended = 0
        self._published = 0
        #: The published picture's.
        self._outdated: Callable[[], bool] = _never
        #: Checkpoints in a row that failed for more than a busy daemon.
        self._failures = 0

    @property
    def dirty(self) -> bool:
        """Whether builds ended that no published generation has, or what it has was lost since."""
        return self._ended > self._published or self._outdated()

    async def run(self) -> None:
        """Publish after each build, as soon as the daemon is idle, until cancelled."""
        known = 0
        while True:
            again = self.dirty and not await self._epoch.active_builds()
            with suppress(TimeoutError):
                pause = min(_AGAIN_AFTER * 2 ** min(self._failures, 6), _AGAIN_AT_MOST)
                async with asyncio.timeout(pause if again else None):
                    await self._epoch.finished.next(known)
            self._note()
            known = self._known
            if self.dirty:
                await self.checkpoint()

    async def drain(self) -> None:
        """Wait for the builds under way, then publish what is not published yet."""
        self._failures = 0
        while True:
            active = await self._epoch.active_builds()
            self._note()
            if active:
                await self._epoch.finished.next(self._known)
            elif self._tasks:
                await asyncio.wait(self._tasks)
            elif not self.dirty or self._failures >= _LAST_TRIES:
                return
            else:
                self._status.enter(Phase.PUBLISHING)
                published = (await self.checkpoint()).published
                # A client may have begun another build meanwhile.
                self._status.enter(Phase.DRAINING)
                if not published:
                    await asyncio.sleep(_AGAIN_AFTER)

    def _note(self) -> None:
        """Count the builds that ended meanwhile."""
        for build in self._epoch.finished.after(self._known):
            self._known += 1
            if self._epoch.inherited.root is None and not build.error:
                self._cold_seconds = max(self._cold_seconds, build.seconds)
            self._ended += self._policy.wants(build)

    async def checkpoint(self) -> CheckpointReport:
        """Take a checkpoint and publish it; never raises for what the cache cannot do.

        A caller that goes away does not end it: half a capture would leave chunks that
        count as stored and are not.
        """
        task = asyncio.create_task(self._checkpoint(), name="checkpoint")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End checkpoints under way; nothing of them is published."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _checkpoint(self) -> CheckpointReport:
        async with self._one_at_a_time:
            began = time.monotonic()
            # Whoever asks may have seen a build's end before the daemon's event has come here.
            active = await self._epoch.active_builds()
            self._note()
            if self._epoch.inherited.root is None and not self._ended:
                return self._nothing(began, "nothing that is worth publishing has been built")
            packs, size = self._epoch.uploaded
            span = self._status.begin(Kind.CHECKPOINT, "checkpoint")
            try:
                # Of builds that end from now until the picture begins nobody could say whether it
                # has them.
                expect_idle(active, self._epoch.doomed)
                # Builds that end from here on are not in the picture.
                ended = self._ended
                picture, generation = await self._take_and_publish(span)
                self._published, self._failures = ended, 0
                if self._policy.publish != "never":
                    self._outdated = picture.outdated
            except NotIdle as busy:
                self._status.skipped_checkpoint("busy")
                log.info("checkpoint skipped", reason=str(busy))
                return self._nothing(began, str(busy))
            except (BuildsvcError, OSError) as problem:
                self._failures += 1
                self._status.failed(problem)
                self._status.skipped_checkpoint("failed")
                log.warning("nothing published", reason=str(problem))
                return self._nothing(began, str(problem))
            except grpc.aio.AioRpcError as problem:
                self._failures += 1
                reason = problem.details() or "the daemon is gone"
                if problem.code() in _GONE:
                    # Of the daemon or the agent: the epoch's own watchers decide what follows.
                    self._status.skipped_checkpoint("daemon-gone")
                else:
                    self._status.skipped_checkpoint("failed")
                    log.warning("nothing published", reason=reason)
                return self._nothing(began, reason)
            finally:
                span.end("failed")
            return CheckpointReport(
                published=True,
                reason="",
                key=generation.found_key,
                number=generation.number,
                seconds=round(time.monotonic() - began, 3),
                snapshots=len(picture.snapshots),
                blobs=len(picture.blobs),
                packs=self._epoch.uploaded[0] - packs,
                uploaded_bytes=self._epoch.uploaded[1] - size,
            )

    async def _take_and_publish(self, span: Span) -> tuple[Picture, Generation]:
        """Take a picture and publish it, while nothing is fetched that nobody waits for."""
        self._epoch.inherited.publishes(under_way=True)
        try:
            return await self._until_published(span)
        finally:
            self._epoch.inherited.publishes(under_way=False)

    async def _until_published(self, span: Span) -> tuple[Picture, Generation]:
        """Take a picture and publish it; again, when the store was collected meanwhile."""
        for attempt in range(_COLLECTIONS + 1):
            picture = await self._take()
            span.end(snapshots=len(picture.snapshots), blobs=len(picture.blobs))
            try:
                return picture, await self._publish(picture)
            except PacksCollected as problem:
                if attempt == _COLLECTIONS:
                    raise
                log.info("storing again what may have been collected", reason=str(problem))
                self._epoch.collected(problem.packs, problem.collection)
        raise AssertionError("unreachable")

    async def _take(self) -> Picture:
        """Take a picture, and say what is not in it."""
        checkpointer = self._epoch.checkpointer()
        try:
            picture = await checkpointer.take()
        finally:
            self._left_out("layer", checkpointer.pruned)
        self._left_out("cache-mount", picture.left_out)
        if picture.excluded:
            log.info("excluded from the cache", mounts=picture.excluded)
        return picture

    def _left_out(self, what: str, reasons: dict[str, str]) -> None:
        for name, reason in reasons.items():
            self._status.count("left_out", what)
            log.warning("left out of the cache", what=what, snapshot=name, reason=reason)

    async def _publish(self, picture: Picture) -> Generation:
        span = self._status.begin(Kind.PUBLISH, self._key.name)
        restored = self._epoch.inherited.root
        seconds = restored.cold_build_seconds if restored else self._cold_seconds
        try:
            published = await self._publisher.publish(
                picture, self._epoch.inherited.catalog, restored, seconds
            )
            span.end(number=published.number)
        finally:
            span.end("failed")
        generation = Generation(
            asked_key=self._key.name,
            found_key=self._key.name,
            number=published.number,
            created_unix=published.head.created_unix_ns / 1e9,
            cold_build_seconds=seconds,
        )
        self._status.was_published(generation)
        log.info("published", key=self._key.name, generation=published.number)
        return generation

    def _nothing(self, began: float, reason: str) -> CheckpointReport:
        return CheckpointReport(
            published=False,
            reason=reason,
            key=self._key.name,
            number=0,
            seconds=round(time.monotonic() - began, 3),
            snapshots=0,
            blobs=0,
            packs=0,
            uploaded_bytes=0,
        )
