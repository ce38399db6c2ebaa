"""The status as Prometheus metrics: read when scraped, so that nothing is counted twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from buildsvc import __version__
from sidecar.status import Advice, Phase, Status
from sidecar.versions import BUILDKIT_VERSION

_PREFIX = "buildsvc_sidecar_"

# Family name in Status → (metric, label, help)
_LABELLED = {
    "fetched_bytes": ("fetched_bytes", "why", "Bytes of objects restored, by what asked for them."),
    "fetched_objects": ("fetched_objects", "why", "Snapshots and blobs restored, likewise."),
    "checkpoints_skipped": ("checkpoints_skipped", "reason", "Checkpoints that were not taken."),
    "cold_starts": ("cold_starts", "reason", "Starts of the daemon without a cache."),
    "passed_over": (
        "passed_over",
        "reason",
        "Keys without a generation, and generations, that were not used in the search for one.",
    ),
    "errors": ("errors", "class", "Errors, by class; also those that were overcome."),
    "left_out": ("left_out", "what", "Snapshots that were not published: too large, or lost."),
    "builds": ("builds", "outcome", "Builds that ended."),
}
_PLAIN = {
    "packed_bytes": "Bytes of packs made from what builds committed.",
    "uploaded_bytes": "Bytes put into the store.",
    "checkpoints": "Checkpoints taken.",
    "daemon_exits": "Times that buildkitd ended by itself.",
    "prefetch_stopped": "Restores that fetch only what is asked for, because the disk has no room.",
    "records_dropped": "Records that buildkitd has dropped: the store has lost their layers.",
    "roots_lost": "Times that the daemon moved to another root because the cache was lost.",
    "roots_mended": "Times that a generation was restored again, without what is lost.",
}


class StatusCollector(Collector):
    """Collects one sidecar's metrics. docs/operations.md lists them."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield every family, those without samples too."""
        yield from self._counters()
        yield from self._gauges()
        yield from self._objects()
        yield from self._store()

    def _counters(self) -> Iterator[Metric]:
        status = self._status
        for name, (metric, label, text) in _LABELLED.items():
            yield _labelled(metric, text, label, status.counts.family(name))
        for name, text in _PLAIN.items():
            yield CounterMetricFamily(_PREFIX + name, text, value=status.counts.plain[name])
        waited = SummaryMetricFamily(
            _PREFIX + "demand_wait_seconds", "Time that builds waited for objects of the cache."
        )
        waited.add_metric([], status.counts.plain["demand_waits"], status.counts.demand_waited)
        yield waited

    def _gauges(self) -> Iterator[Metric]:
        status = self._status
        info = GaugeMetricFamily(
            _PREFIX + "info", "Versions.", labels=["version", "buildkit_version"]
        )
        info.add_metric([__version__, BUILDKIT_VERSION], 1)
        yield info
        now = GaugeMetricFamily(_PREFIX + "phase", "1 for the phase of now.", labels=["phase"])
        spent = GaugeMetricFamily(
            _PREFIX + "phase_seconds", "Time spent in each phase so far.", labels=["phase"]
        )
        seconds = status.phase_seconds()
        for phase in Phase:
            now.add_metric([phase.value], phase is status.phase)
            spent.add_metric([phase.value], seconds.get(phase.value, 0.0))
        yield now
        yield spent
        yield _gauge("ready", "1 while clients are served.", status.ready)
        yield _gauge(
            "run_again", "1 when a build should be run again.", status.advice is Advice.RUN_AGAIN
        )
        if (found := status.restored) is not None:
            text = "1 when the restored generation is of a fallback key."
            yield _gauge("restored_fallback", text, found.is_fallback)
        for which, generation in (("restored", status.restored), ("published", status.published)):
            if generation is not None:
                text = f"Number of the {which} generation."
                yield _gauge(f"{which}_generation", text, generation.number)
                text = f"Age of the {which} generation."
                yield _gauge(f"{which}_generation_age_seconds", text, status.age(generation))

    def _objects(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            _PREFIX + "objects",
            "Snapshots and blobs of the restored generation: demand and prefetch were used, "
            "never_needed was fetched ahead in vain so far.",
            labels=["use"],
        )
        for use, count in self._status.counts.objects().items():
            family.add_metric([use], count)
        yield family

    def _store(self) -> Iterator[Metric]:
        use = self._status.store
        text = "Operations sent to the store, retries among them; of a listing, pages."
        yield _labelled("store_operations", text, "operation", use.operations)
        text = "Time spent in operations of the store that ended."
        yield _labelled("store_operation_seconds", text, "operation", use.seconds)
        errors = CounterMetricFamily(
            _PREFIX + "store_errors",
            "Operations of the store that failed, by the error's class.",
            labels=["operation", "class"],
        )
        for labels, count in sorted(use.errors.items()):
            errors.add_metric(labels, count)
        yield errors
        text = "Bytes of objects that passed, in operations that succeeded."
        both = {"read": use.bytes_in, "written": use.bytes_out}
        yield _labelled("store_bytes", text, "direction", both)
        yield _gauge("store_operations_in_flight", "Operations under way.", use.in_flight)


def registry(status: Status) -> CollectorRegistry:
    """Return a registry of its own with this status' metrics."""
    made = CollectorRegistry()
    made.register(StatusCollector(status))
    return made


def _labelled(name: str, text: str, label: str, counts: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(_PREFIX + name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(_PREFIX + name, text, value=float(value))
