"""buildsvc itself: a fresh sidecar whose build begins some seconds after it."""

from __future__ import annotations

import time

from perf.build import Built
from perf.comparison.peers.bake import build_all, images
from perf.comparison.peers.buildkit import build_spans
from perf.comparison.peers.contract import Meter, Peer, Record, Span
from perf.comparison.place import Place, Store
from perf.host import PerfError, stored_bytes
from perf.pod import Pod, PodOptions, publication_end

FAMILY = "buildsvc"
KEY = "perf"

#: Seconds that a publication may take before the round is given up.
_PUBLISHED_WITHIN = 900.0
#: The sidecar's own spans that a timeline shows.
_PHASES = ("starting", "restoring", "starting-daemon")


class Buildsvc(Peer):
    """A pod that restores what the one before has published. ``head_start`` in seconds."""

    def __init__(self, place: Place, head_start: float, family: str = FAMILY) -> None:
        super().__init__(place, f"buildsvc-{head_start:g}s", family)
        self._head_start = head_start
        self._store = place.store(family)

    def first(self) -> Record:
        """Build without a cache; nothing, where another one of the family has done so."""
        if any(self._store.directory.glob("keys/**/*")):
            return {}
        return first_build(self, self._store)

    def again(self) -> Record:
        """Restore and build."""
        return _pod(self, self._store, self._head_start, cold=False)


class First(Peer):
    """The first build of all, with packing and uploading under way, in every round."""

    cold = True

    def __init__(self, place: Place) -> None:
        super().__init__(place, "buildsvc-first")
        self._store = place.store(self.name)

    def first(self) -> Record:
        """Nothing: every build is a first one."""
        return {}

    def again(self) -> Record:
        """Build without anything in the store."""
        self._store.empty()
        return first_build(self, self._store)


def first_build(peer: Peer, store: Store) -> Record:
    """A cold pod, and what it leaves in the store."""
    record = _pod(peer, store, 0.0, cold=True)
    return {**record, "stored_bytes": stored_bytes(store.directory)}


def _pod(peer: Peer, store: Store, head_start: float, *, cold: bool) -> Record:
    place = peer.place
    meter = Meter()
    with Pod(place.fresh("pod"), PodOptions(store.url, KEY, place.config)) as pod:
        pod.start(watched=False)
        meter.watch(pod.pid)
        time.sleep(max(meter.began + head_start - time.monotonic(), 0.0))
        if pod.bound_seconds is None:
            raise PerfError(f"the endpoint was never bound\n{pod.log_end()}")
        built = _build(peer, pod, first=cold)
        status = pod.wait_published(built.ended_unix, _PUBLISHED_WITHIN)
        cpu, requests = meter.processor(), pod.store_requests()
        if cold and status["restored"] is not None:
            raise PerfError(f"an empty store has {status['restored']}\n{pod.log_end()}")
        if code := pod.stop(_PUBLISHED_WITHIN):
            raise PerfError(f"the sidecar exited with {code}\n{pod.log_end()}")
        return {
            # With a head start only the build is what anybody waits for.
            "seconds": None if head_start else round(built.ended_unix - meter.began_unix, 3),
            "build_seconds": round(built.seconds, 3),
            "steps": len(built.progress.instructions),
            "cached": built.progress.cached,
            "cpu_seconds": round(cpu, 2),
            "published_seconds": round(publication_end(status) - built.ended_unix, 3),
            # A rebuild that finds no cache is a slow round, and no round less.
            "cold_reason": "" if cold else status["cold_reason"] or "",
            "objects": status["objects"],
            "requests": requests,
            "commands": [pod.command(), built.command],
            "spans": _spans(meter, built, status),
            **meter.close(),
        }


def _build(peer: Peer, pod: Pod, *, first: bool) -> Built:
    project = peer.place.project
    if project.targets:
        return build_all(pod, images(project, peer.image()))
    return pod.build(project.job(peer.image(), target=project.everything if first else ""))


def _spans(meter: Meter, built: Built, status: Record) -> list[Span]:
    """The sidecar's phases until it is ready, and the build's steps."""
    at = float(status["started_unix"]) - meter.began_unix
    spans: list[Span] = []
    for phase in _PHASES:
        took = status["phase_seconds"].get(phase, 0.0)
        spans.append((phase, round(at, 3), round(at + took, 3)))
        at += took
    return [*spans, *build_spans(built, meter.began_unix)]
