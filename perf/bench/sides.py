"""The sides of the comparison: each function is one measurement, and returns its record."""

from __future__ import annotations

import time
from typing import Any

from perf.bench.site import KEY, Site
from perf.build import Built
from perf.generation import Published, newest
from perf.host import PerfError, stored_bytes
from perf.peer import StockDaemon, export_cache, import_cache
from perf.pod import Pod, fetched, publication_end
from perf.snapshotdiff import zstd_size

Record = dict[str, Any]

#: Seconds that a publication may take before the round is given up.
_PUBLISHED_WITHIN = 600.0


def cold_pod(place: Site) -> Record:
    """The first build through the agent: no cache, empty store, packing under way."""
    place.new_store()
    with place.pod() as pod:
        pod.start()
        pod.wait_answer()
        built = pod.build(place.job("pod"))
        status = pod.wait_published(built.ended_unix, _PUBLISHED_WITHIN)
        _stop(pod)
        return {
            **_pod_figures(pod, built, status),
            "stored_bytes": stored_bytes(place.store),
        }


def cold_stock(place: Site, *, keep: bool) -> Record:
    """The same build on stock buildkitd; with ``keep`` the daemon becomes the warm one."""
    daemon = place.stock()
    try:
        daemon.start()
        daemon.wait_answer()
        built = daemon.build(place.job("warm"))
        if keep:
            place.warm = daemon
        return {
            **built.shown(),
            "cpu_seconds": daemon.build_cpu_seconds,
            "daemon": daemon.command(),
        }
    finally:
        if place.warm is not daemon:
            daemon.__exit__(None, None, None)


def warm(place: Site) -> Record:
    """A one-line change on the daemon that stayed up."""
    daemon = _warm(place)
    revision = place.revise()
    built = daemon.build(place.job("warm"))
    return {**built.shown(), "revision": revision, "cpu_seconds": daemon.build_cpu_seconds}


def head_start_pod(place: Site, head_start: float) -> Record:
    """A one-line change in a fresh pod whose build step begins ``head_start`` seconds later."""
    revision, before = place.revise(), _Before(place)
    with place.pod() as pod:
        pod.start()
        answered = pod.wait_answer()
        time.sleep(max(pod.began + head_start - time.monotonic(), 0.0))
        built = pod.build(place.job("pod"))
        record = _changed(before, pod, built)
    return {**record, "revision": revision, "answered_seconds": round(answered, 3)}


def immediate_pod(place: Site) -> Record:
    """The same without a head start: ``seconds`` count from the start of the sidecar's process."""
    revision, before = place.revise(), _Before(place)
    with place.pod() as pod:
        pod.start()
        if pod.bound_seconds is None:
            raise PerfError(f"the endpoint was never bound\n{pod.log_end()}")
        built = pod.build(place.job("pod"))
        record = _changed(before, pod, built)
    return {**record, "revision": revision, "seconds": _since(pod, built)}


def registry_cache(place: Site) -> Record:
    """BuildKit's own registry cache into a fresh daemon; ``seconds`` from the daemon's start."""
    revision = place.revise()
    with place.stock() as daemon:
        daemon.start(watched=False)
        daemon.wait_answer()
        built = daemon.build(place.job("warm", options=import_cache(place.cache_reference)))
        return {**built.shown(), "revision": revision, "seconds": _since(daemon, built)}


def export_registry_cache(place: Site) -> Record:
    """A one-line change on the warm daemon that also writes BuildKit's cache to the registry."""
    revision = place.revise()
    built = _warm(place).build(place.job("warm", options=export_cache(place.cache_reference)))
    return {**built.shown(), "revision": revision}


def ready_local(place: Site) -> Record:
    """A pod's start alone, the store a local directory, a client waiting from the start."""
    with place.pod(local=True) as pod:
        pod.start()
        answered = pod.wait_answer()
        status = pod.status()
        _stop(pod)
        return {
            "answered_seconds": round(answered, 3),
            "bound_seconds": pod.bound_seconds,
            "ready_seconds": _ready(pod, status),
            "phases": status["phase_seconds"],
            "cold_reason": status["cold_reason"],
        }


def _warm(place: Site) -> StockDaemon:
    if place.warm is None:
        raise PerfError("there is no warm daemon")
    return place.warm


def _since(daemon: Pod | StockDaemon, built: Built) -> float:
    return round(built.ended_unix - daemon.began_unix, 3)


class _Before:
    """The store before a pod adds to it."""

    def __init__(self, place: Site) -> None:
        self.store = place.store
        self.generation = newest(place.store, KEY)
        self.stored_bytes = stored_bytes(place.store)


def _changed(before: _Before, pod: Pod, built: Built) -> Record:
    """Wait for the publication after a one-line change and say what it stored."""
    status = pod.wait_published(built.ended_unix, _PUBLISHED_WITHIN)
    after = newest(before.store, KEY)
    names = after.added(before.generation)
    plain = zstd_size(pod.root, status["epoch"], names)
    _stop(pod)
    if status["restored"] is None:
        raise PerfError(f"a pod that should restore went cold: {status['cold_reason']}")
    return {
        **_pod_figures(pod, built, status),
        **_fetched(status, after),
        "generation": after.number,
        "added_bytes": stored_bytes(before.store) - before.stored_bytes,
        "added_parts": after.new_bytes(before.generation),
        "added_snapshots": len(names),
        "diff_zstd_bytes": plain,
    }


def _pod_figures(pod: Pod, built: Built, status: Record) -> Record:
    return {
        **built.shown(),
        "cpu_seconds": pod.build_cpu_seconds,
        "cpu_roles": pod.build_cpu,
        "bound_seconds": pod.bound_seconds,
        "ready_seconds": _ready(pod, status),
        "phases": status["phase_seconds"],
        "published_after_seconds": round(publication_end(status) - built.ended_unix, 3),
        "memory_together": pod.memory.together,
        "memory_roles": pod.memory.roles,
        "memory_high_water": pod.memory.high_water,
        "counts": status["counts"],
        "sidecar": pod.command(),
    }


def _ready(pod: Pod, status: Record) -> float:
    """Seconds from the start of the process until a client is served."""
    before = ("starting", "restoring", "starting-daemon")
    took: float = sum(status["phase_seconds"].get(phase, 0.0) for phase in before)
    return round(float(status["started_unix"]) - pod.began_unix + took, 3)


def _fetched(status: Record, after: Published) -> Record:
    parts = fetched(status, after.trace)
    return {
        "demand_bytes": parts.demand,
        "prefetched_bytes": parts.prefetch,
        "never_needed_bytes": parts.never_needed,
        "objects": status["objects"],
        "demand_waited_seconds": status["demand_waited_seconds"],
    }


def _stop(pod: Pod) -> None:
    code = pod.stop(_PUBLISHED_WITHIN)
    if code:
        raise PerfError(f"the sidecar exited with {code}\n{pod.log_end()}")
