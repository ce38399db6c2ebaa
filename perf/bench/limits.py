"""What the figures must not exceed, and whether they do."""

from __future__ import annotations

from dataclasses import dataclass

from perf import stats
from perf.bench.rounds import Measured

#: A pod with a head start may take this times the warm daemon, or so many seconds more.
HEAD_START_RATIO, HEAD_START_SECONDS = 1.1, 0.3
IMMEDIATE_RATIO = 2.2
REGISTRY_CACHE_SHARE = 0.25
COLD_RATIO = 1.05
BOUND_SECONDS = 0.5
READY_SECONDS = 2.0
PUBLISHED_SECONDS = 3.0
ADDED_RATIO, ADDED_BYTES = 1.1, 1_000_000
TOGETHER_BYTES = 250_000_000
WORKER_BYTES = 150_000_000


@dataclass(frozen=True)
class Check:
    """One figure beside its limit. ``met`` is None when there was nothing to measure."""

    name: str
    found: str
    limit: str
    met: bool | None


def checks(measured: Measured) -> list[Check]:
    """Return every limit of a scenario with what was found."""
    return [
        _head_start(measured),
        _immediate(measured),
        _registry_cache(measured),
        _cold(measured),
        _bound(measured),
        _median_below(
            "daemon ready, local store (s)",
            measured.values("pod-ready-local", "ready_seconds"),
            READY_SECONDS,
        ),
        _median_below("image pushed to published (s)", _both(measured), PUBLISHED_SECONDS),
        _added(measured),
        _memory(measured),
        _workers(measured),
    ]


def _nothing(name: str, limit: str) -> Check:
    return Check(name, "not measured", limit, None)


def _head_start(measured: Measured) -> Check:
    name = "pod with head start ÷ warm daemon"
    limit = f"≤ {HEAD_START_RATIO} or + {HEAD_START_SECONDS} s"
    pod, warm = measured.values("pod-head-start", "seconds"), measured.values("warm", "seconds")
    if not pod or not warm:
        return _nothing(name, limit)
    ratio = stats.ratio(pod, warm)
    more = stats.median(pod).value - stats.median(warm).value
    met = ratio.value <= HEAD_START_RATIO or more <= HEAD_START_SECONDS
    return Check(name, f"{ratio.text()}, {more:+.2f} s", limit, met)


def _immediate(measured: Measured) -> Check:
    return _ratio_below(
        "pod without head start ÷ warm daemon",
        measured.values("pod-immediate", "seconds"),
        measured.values("warm", "seconds"),
        IMMEDIATE_RATIO,
    )


def _registry_cache(measured: Measured) -> Check:
    return _ratio_below(
        "pod without head start ÷ fresh stock, registry cache",
        measured.values("pod-immediate", "seconds"),
        measured.values("registry-cache", "seconds"),
        REGISTRY_CACHE_SHARE,
    )


def _cold(measured: Measured) -> Check:
    check = _ratio_below(
        "cold build: through the agent ÷ stock",
        measured.values("cold-pod", "seconds"),
        measured.values("cold-stock", "seconds"),
        COLD_RATIO,
    )
    ours = measured.values("cold-pod", "cpu_seconds")
    stock = measured.values("cold-stock", "cpu_seconds")
    if not ours or not stock:
        return check
    cpu = f"; CPU {stats.median(ours).value:.1f} s ÷ {stats.median(stock).value:.1f} s"
    return Check(check.name, check.found + cpu, check.limit, check.met)


def _bound(measured: Measured) -> Check:
    values = [
        value
        for side in ("pod-head-start", "pod-immediate", "pod-ready-local")
        for value in measured.values(side, "bound_seconds")
    ]
    return _median_below("endpoint bound after process start (s)", values, BOUND_SECONDS)


def _both(measured: Measured) -> list[float]:
    name = "published_after_seconds"
    return measured.values("pod-head-start", name) + measured.values("pod-immediate", name)


def _added(measured: Measured) -> Check:
    name = "bytes added by a one-line change"
    limit = f"≤ {ADDED_RATIO} x plain + {ADDED_BYTES / 1e6:.0f} MB"
    rounds = [record for record in measured.records if "diff_zstd_bytes" in record]
    if not rounds:
        return _nothing(name, limit)
    over = [
        record["added_bytes"] - ADDED_RATIO * record["diff_zstd_bytes"] - ADDED_BYTES
        for record in rounds
    ]
    added = stats.median([record["added_bytes"] for record in rounds]).value
    plain = stats.median([record["diff_zstd_bytes"] for record in rounds]).value
    bases = stats.median([record["added_parts"]["databases"] for record in rounds]).value
    found = f"{added / 1e6:.2f} MB (databases {bases / 1e6:.2f}) for {plain / 1e6:.2f} MB"
    return Check(name, found, limit, stats.median(over).value <= 0)


def _memory(measured: Measured) -> Check:
    found = [record.get("memory_together", 0) for record in measured.records]
    return _most("sidecar and agent together, resident (MB)", max(found, default=0), TOGETHER_BYTES)


def _workers(measured: Measured) -> Check:
    found = [record.get("memory_high_water", {}).get("worker", 0) for record in measured.records]
    return _most("one worker, high water (MB)", max(found, default=0), WORKER_BYTES)


def _most(name: str, found: int, limit: int) -> Check:
    text = f"≤ {limit / 1e6:.0f}"
    return (
        Check(name, f"{found / 1e6:.0f}", text, found <= limit) if found else _nothing(name, text)
    )


def _ratio_below(name: str, over: list[float], under: list[float], limit: float) -> Check:
    text = f"≤ {limit}"
    if not over or not under:
        return _nothing(name, text)
    ratio = stats.ratio(over, under)
    return Check(name, ratio.text(), text, ratio.value <= limit)


def _median_below(name: str, values: list[float], limit: float) -> Check:
    text = f"≤ {limit}"
    if not values:
        return _nothing(name, text)
    middle = stats.median(values)
    return Check(name, middle.text(), text, middle.value <= limit)
