"""The state of one sidecar as others see it: a model without input or output.

The lifecycle and its parts report here; the HTTP pages, the metrics, ``sidecar status`` and
the progress display read. Everything happens on one event loop's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Literal

from buildsvc.redact import redacted_text
from buildsvc.store.meter import StoreUse
from sidecar.counts import Counts
from sidecar.phase import WAITING_FOR, Phase
from sidecar.timeline import Attribute, Kind, Span, Timeline

__all__ = ["SCHEMA", "Advice", "ColdReason", "Generation", "Phase", "SkipReason", "Status"]

SCHEMA = 1
"""Version of :meth:`Status.snapshot`; grows when a field changes its meaning or goes."""


ColdReason = Literal[
    "no-store",
    "no-generation",
    "store-unavailable",
    "unsupported-format",
    "corrupt",
    "corrupt-databases",
    "untrusted",
    "time-out",
    "no-room",
    "daemon-refused",
    "root-lost",
]
"""Why a daemon starts without a cache, a metric's label. docs/operations.md explains each."""

SkipReason = Literal["busy", "failed", "daemon-gone", "deadline"]
"""Why a checkpoint was not taken, likewise."""


class Advice(StrEnum):
    """What whoever saw a build fail should do."""

    OK = "ok"
    RUN_AGAIN = "run-again"
    BUILD_FAILED = "build-failed"


@dataclass(frozen=True)
class Generation:
    """The generation that was restored or published.

    ``asked_key`` differs after a fallback; ``because`` says why something else than the newest
    generation of that key was restored, empty when nothing else was. ``found_domain`` is the trust
    domain that it was read from, empty for the own one.
    """

    asked_key: str
    found_key: str
    number: int
    created_unix: float
    because: str = ""
    found_domain: str = ""
    cold_build_seconds: float = 0.0

    @property
    def is_fallback(self) -> bool:
        """Whether it is of another key than the one asked for."""
        return self.asked_key != self.found_key or bool(self.found_domain)


class Status:
    """What the sidecar is doing and has done. Secrets in texts are masked as they come in.

    ``clock`` counts seconds and never goes back, ``wall`` is Unix time; ``spans`` bounds the
    timeline; ``recent_log`` returns the newest log lines for the debug bundle.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        spans: int = 4000,
        recent_log: Callable[[], list[str]] = list,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self.recent_log = recent_log
        self._origin = clock()
        self.started_unix = wall()
        self.version = 0
        self._changed = asyncio.Event()
        self.phase = Phase.STARTING
        self._phase_since = 0.0
        self._ended_phases: dict[str, float] = {}
        self.waiting_for = WAITING_FOR[self.phase]
        self.cold_reason: str | None = None
        self.restored: Generation | None = None
        self.published: Generation | None = None
        self.endpoint = ""
        self.http = ""
        self.tls = False
        self.isolated = False
        self.epoch = 0
        self.advice = Advice.OK
        self.advice_detail = ""
        self.advice_unix: float | None = None
        self._lost_at = -1.0
        #: What passed between this sidecar and its store.
        self.store = StoreUse()
        self.timeline = Timeline(spans)
        self.counts = Counts()

    def now(self) -> float:
        """Seconds since the sidecar's start."""
        return self._clock() - self._origin

    # Phases and facts

    def enter(self, phase: Phase, waiting_for: str = "") -> None:
        """Begin a phase; ``waiting_for`` tells a client that is not served yet what is missing."""
        self._ended_phases = self.phase_seconds()
        self.phase, self._phase_since = phase, self.now()
        self.waiting_for = redacted_text(waiting_for) or WAITING_FOR[phase]
        self._touch()

    def phase_seconds(self) -> dict[str, float]:
        """Return the time spent in each phase so far, by its name."""
        phase = self.phase.value
        seconds = self._ended_phases.get(phase, 0.0) + self.now() - self._phase_since
        return {**self._ended_phases, phase: seconds}

    @property
    def ready(self) -> bool:
        """Whether a client that connects now is served by a daemon."""
        return self.phase is Phase.READY

    def serves(self, endpoint: str, *, tls: bool, isolated: bool) -> None:
        """Say where clients connect, and whether RUN steps have a network of their own."""
        self.endpoint, self.tls, self.isolated = endpoint, tls, isolated
        self._touch()

    def serves_http(self, address: str) -> None:
        """Say where the HTTP pages are."""
        self.http = address
        self._touch()

    def restores(self, generation: Generation, objects: int) -> None:
        """Say which generation is used and how many snapshots and blobs it has.

        Prefetching, which may have come to its end by then, says for itself what is left.
        """
        because = redacted_text(generation.because)
        self.restored = replace(generation, because=because)
        self.counts.objects_total = objects
        self._touch()

    def to_prefetch(self, objects: int) -> None:
        """Say how many objects there are that prefetching has not come to the end of."""
        if objects != self.counts.objects_left:
            self.counts.objects_left = objects
            self._touch()

    def went_cold(self, reason: ColdReason, detail: str) -> None:
        """Say that the daemon starts without a cache; ``detail`` is for people."""
        self.cold_reason = redacted_text(detail)
        # What an earlier epoch had restored went with it.
        self.restored = None
        self.counts.objects_left = 0
        self.count("cold_starts", reason)
        self.begin(Kind.COLD, reason, detail=detail).end()

    def was_published(self, generation: Generation) -> None:
        """Say that a new generation is there for others."""
        self.published = generation
        self._touch()

    def dropped(self, records: int) -> None:
        """Say that buildkitd has dropped records whose layers the store has lost."""
        self.counts.add("records_dropped", by=records)
        self._touch()

    def gives_up_root(self, reason: str) -> None:
        """Say that a build failed because of the cache, and that the daemon moves on without it."""
        self.enter(Phase.STARTING_DAEMON, "the daemon moves to an empty root")
        self._advise(Advice.RUN_AGAIN, f"the cache is given up ({reason}); builds go on cold")

    def lost_root(self, epoch: int, reason: str) -> None:
        """Say that the cache under the daemon is gone and that it moves to another root.

        ``epoch`` is the new root's number. Builds that were running fail through no fault of
        their own, so the advice is to run them again.
        """
        self.epoch = epoch
        self._lost_at = self.now()
        self.counts.add("roots_lost")
        self._advise(Advice.RUN_AGAIN, f"the cache was lost ({reason})")

    def mended(self) -> None:
        """Say that the new root has all but what is lost, and what is built on that."""
        self.counts.add("roots_mended")
        self._touch()

    def _advise(self, advice: Advice, detail: str) -> None:
        self.advice, self.advice_unix = advice, self._wall()
        self.advice_detail = redacted_text(detail)
        self._touch()

    # Counting

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        """Add to a counter; with a label, to one of a family (errors by class and the like)."""
        self.counts.add(name, label, by)
        self._touch()

    def failed(self, error: BaseException) -> None:
        """Count an error by its class."""
        self.count("errors", type(error).__name__)

    def skipped_checkpoint(self, reason: SkipReason) -> None:
        """Count a checkpoint that was not taken."""
        self.count("checkpoints_skipped", reason)

    def packed(self, size: int) -> None:
        """Count bytes of finished packs."""
        self.count("packed_bytes", by=size)

    def used(self, name: str, waited: float = 0.0) -> None:
        """Count the first use of a snapshot or blob; ``waited`` seconds, 0 when it was there."""
        self.counts.used(name, waited)
        self._touch()

    # The timeline

    def begin(self, kind: Kind, name: str, **attributes: Attribute) -> Span:
        """Begin a span. What is counted is taken from the attributes when it ends.

        A fetch has ``object`` (snapshot or blob), ``why`` (demand, trace or rest) and in the end
        ``bytes``, ``linked`` (files) and ``waited``; a build ``seconds`` and ``error``; an upload
        ``bytes``.
        """
        span = Span(self, self.timeline.next_id(), kind, name, dict(attributes))
        self.timeline.add(span)
        self.span_changed(span)
        return span

    def span_changed(self, span: Span) -> None:
        """Let readers see the span again (sidecar.timeline.Recorder)."""
        span.revision = self.version + 1
        self._touch()

    def span_ended(self, span: Span) -> None:
        """Count what the span was about (sidecar.timeline.Recorder)."""
        self.span_changed(span)
        size = int(span.attributes.get("bytes") or 0)
        if span.kind is Kind.FETCH and span.outcome == "ok":
            self.counts.fetched(span.name, str(span.attributes.get("why", "rest")), size)
        elif span.kind is Kind.UPLOAD and span.outcome == "ok":
            self.count("uploaded_bytes", by=size)
        elif span.kind is Kind.CHECKPOINT and span.outcome == "ok":
            self.count("checkpoints")
        elif span.kind is Kind.BUILD:
            self._build_ended(span)

    def _build_ended(self, span: Span) -> None:
        self.count("builds", span.outcome)
        # A build that was running when the root was lost says nothing about itself.
        if span.begin < self._lost_at:
            return
        if span.outcome == "ok":
            self._advise(Advice.OK, "")
        else:
            self._advise(Advice.BUILD_FAILED, str(span.attributes.get("error", "")))

    # Readers

    def _touch(self) -> None:
        self.version += 1
        self._changed.set()
        # Those who wait hold the old event; later ones must not find it set.
        self._changed = asyncio.Event()

    async def changed(self, version: int) -> int:
        """Wait until the version is above ``version`` and return it."""
        while self.version <= version:
            await self._changed.wait()
        return self.version

    async def until(self, condition: Callable[[Status], bool]) -> None:
        """Wait until the condition holds; it is looked at after each change."""
        while not condition(self):
            await self._changed.wait()

    def snapshot(self, since: int = 0) -> dict[str, Any]:
        """Return everything, ready for JSON; of the timeline what changed after version ``since``.

        docs/operations.md describes the fields.
        """
        return {
            "schema": SCHEMA,
            "version": self.version,
            "started_unix": self.started_unix,
            "now": round(self.now(), 4),
            "phase": self.phase.value,
            "ready": self.ready,
            "waiting_for": self.waiting_for,
            "endpoint": {"address": self.endpoint, "tls": self.tls, "isolated": self.isolated},
            "http": self.http,
            "epoch": self.epoch,
            "cold_reason": self.cold_reason,
            "restored": self._shown(self.restored),
            "published": self._shown(self.published),
            "advice": {
                "what": self.advice.value,
                "detail": self.advice_detail,
                "epoch": self.epoch,
                "unix": self.advice_unix,
            },
            "objects": self.counts.objects(),
            "demand_waited_seconds": round(self.counts.demand_waited, 4),
            "counts": dict(self.counts.plain),
            "by": {name: dict(counter) for name, counter in self.counts.labelled.items()},
            "phase_seconds": {
                phase: round(took, 4) for phase, took in self.phase_seconds().items()
            },
            "timeline": [span.shown() for span in self.timeline if span.revision > since],
            "timeline_dropped": self.timeline.dropped,
        }

    def age(self, generation: Generation) -> float:
        """Return how many seconds ago a generation was published."""
        return max(self._wall() - generation.created_unix, 0.0)

    def _shown(self, generation: Generation | None) -> dict[str, Any] | None:
        if generation is None:
            return None
        return {**asdict(generation), "age_seconds": round(self.age(generation), 3)}
