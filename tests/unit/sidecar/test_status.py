"""The status model: phases, timeline, counters, advice, change notification, metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from prometheus_client import generate_latest

from buildsvc.errors import CorruptObject
from sidecar.metrics import registry
from sidecar.status import Advice, Generation, Phase, Status
from sidecar.timeline import Kind
from tests.unit.clock import Clock


@pytest.fixture(autouse=True)
def never_blocks() -> Iterator[BlockBuster]:
    with blockbuster_ctx("sidecar") as found:
        yield found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def status(clock: Clock) -> Status:
    return Status(clock=clock, wall=lambda: 1_000_000.0 + clock.now, spans=5)


def metric(status: Status, name: str, **labels: str) -> float | None:
    return registry(status).get_sample_value(f"buildsvc_sidecar_{name}", labels)


def test_phases_add_up(status: Status, clock: Clock) -> None:
    clock.now += 1
    status.enter(Phase.RESTORING, "the cache is read")
    clock.now += 2
    assert status.snapshot()["waiting_for"] == "the cache is read"
    status.enter(Phase.READY)
    clock.now += 4
    status.enter(Phase.RESTORING)
    clock.now += 8
    found = status.snapshot()
    assert found["phase_seconds"] == {"starting": 1.0, "restoring": 10.0, "ready": 4.0}
    assert found["now"] == 15.0
    assert metric(status, "phase_seconds", phase="restoring") == 10.0
    assert metric(status, "phase", phase="restoring") == 1.0
    assert metric(status, "phase", phase="ready") == 0.0


def test_only_ready_is_ready(status: Status) -> None:
    for phase in Phase:
        status.enter(phase)
        assert status.ready == (phase is Phase.READY)
        assert bool(status.snapshot()["waiting_for"]) != status.ready


def test_a_snapshot_is_json(status: Status) -> None:
    status.restores(Generation("main", "dev", 3, 1_000_000.0), objects=7)
    status.was_published(Generation("dev", "dev", 4, 1_000_100.0))
    status.failed(CorruptObject("x"))
    status.begin(Kind.BUILD, "ref").end("failed", error="no", seconds=1.5)
    status.lost_root(2, "a lease broke")
    found = json.loads(json.dumps(status.snapshot()))
    assert found["schema"] == 1
    assert found["restored"]["age_seconds"] == 100.0
    assert found["published"]["number"] == 4
    assert found["by"]["errors"] == {"CorruptObject": 1}
    assert found["timeline"][0]["error"] == "no"


def test_fetches_are_counted_by_why(status: Status, clock: Clock) -> None:
    status.to_prefetch(2)
    status.restores(Generation("k", "k", 1, 0.0), objects=5)
    demanded = status.begin(Kind.FETCH, "a", object="snapshot", why="rest")
    demanded.note(why="demand")
    clock.now += 2
    demanded.end(bytes=10)
    for name in ("b", "c"):
        status.begin(Kind.FETCH, name, object="blob", why="trace").end(bytes=100)
    status.begin(Kind.FETCH, "d", object="blob", why="trace").end("failed", bytes=1000)
    status.used("a", waited=2.0)
    status.used("b")
    status.used("b")
    status.used("built here")
    assert status.counts.objects() == {
        "total": 5,
        "fetched": 3,
        "demand": 1,
        "prefetch": 1,
        "never_needed": 1,
        "left": 2,
    }
    assert metric(status, "fetched_bytes_total", why="demand") == 10
    assert metric(status, "fetched_bytes_total", why="trace") == 200
    assert metric(status, "objects", use="never_needed") == 1
    assert metric(status, "demand_wait_seconds_sum") == 2.0
    assert metric(status, "demand_wait_seconds_count") == 1
    status.went_cold("corrupt", "nothing of it can be used")
    assert status.counts.objects()["left"] == 0


def test_a_span_ends_once(status: Status, clock: Clock) -> None:
    span = status.begin(Kind.UPLOAD, "pack", bytes=5)
    assert span.finish is None
    clock.now += 3
    span.end()
    clock.now += 3
    span.end("failed", bytes=7)
    assert (span.seconds, span.outcome) == (3.0, "ok")
    assert status.counts.plain["uploaded_bytes"] == 5


def test_the_timeline_is_bounded_and_keeps_what_is_rare(status: Status) -> None:
    running = status.begin(Kind.BUILD, "running")
    ended = status.begin(Kind.RESTORE, "restore")
    ended.end()
    for number in range(10):
        status.begin(Kind.FETCH, f"f{number}", why="rest").end(bytes=1)
    kept = [span.name for span in status.timeline]
    assert kept == ["running", "restore", "f7", "f8", "f9"]
    assert status.snapshot()["timeline_dropped"] == 7
    for number in range(5):
        status.begin(Kind.BUILD, f"b{number}")
    assert len(list(status.timeline)) == 5
    assert "running" in [span.name for span in status.timeline] or running.finish is None


def test_a_reader_gets_only_what_has_changed(status: Status) -> None:
    first = status.begin(Kind.FETCH, "first", why="rest")
    status.begin(Kind.FETCH, "second", why="rest")
    seen = status.snapshot()["version"]
    assert status.snapshot(since=seen)["timeline"] == []
    first.end(bytes=1)
    changed = status.snapshot(since=seen)["timeline"]
    assert [span["name"] for span in changed] == ["first"]
    assert changed[0]["outcome"] == "ok"


def test_advice_tells_a_lost_cache_from_a_wrong_build(status: Status, clock: Clock) -> None:
    def build(outcome: str) -> None:
        status.begin(Kind.BUILD, "x").end(outcome, error="" if outcome == "ok" else "exit code: 1")

    build("failed")
    assert (status.advice, status.advice_detail) == (Advice.BUILD_FAILED, "exit code: 1")
    build("ok")
    assert status.snapshot()["advice"]["what"] == "ok"
    victim = status.begin(Kind.BUILD, "victim")
    clock.now += 1
    status.lost_root(1, "the agent died")
    assert metric(status, "run_again") == 1
    victim.end("failed", error="unavailable")
    found = status.snapshot()["advice"]
    assert found["what"] == "run-again", "the victim's failure is not its own"
    assert (found["epoch"], found["unix"]) == (1, 1_000_101.0)
    clock.now += 1
    build("ok")
    assert status.snapshot()["advice"]["what"] == "ok"
    assert metric(status, "roots_lost_total") == 1


def test_other_counters(status: Status) -> None:
    status.skipped_checkpoint("busy")
    status.begin(Kind.CHECKPOINT, "c").end("failed")
    status.begin(Kind.CHECKPOINT, "c").end()
    status.packed(7)
    status.went_cold("no-store", "no store is set")
    assert metric(status, "checkpoints_skipped_total", reason="busy") == 1
    assert metric(status, "checkpoints_total") == 1
    assert metric(status, "packed_bytes_total") == 7
    assert metric(status, "cold_starts_total", reason="no-store") == 1
    assert status.cold_reason == "no store is set"


def test_metrics_are_there_before_anything_happened(status: Status) -> None:
    text = generate_latest(registry(status)).decode()
    for name in ("uploaded_bytes_total 0", "roots_lost_total 0", "ready 0", "info{"):
        assert f"buildsvc_sidecar_{name}" in text
    assert "restored_generation" not in text
    status.restores(Generation("k", "k", 9, 1_000_000.0), 1)
    assert metric(status, "restored_generation") == 9
    assert metric(status, "restored_fallback") == 0
    status.restores(Generation("branch", "main", 9, 1_000_000.0), 1)
    assert metric(status, "restored_fallback") == 1
    status.restores(Generation("k", "k", 9, 1_000_000.0, found_domain="protected"), 1)
    assert metric(status, "restored_fallback") == 1
    assert metric(status, "restored_generation_age_seconds") == 100.0


def test_what_passed_to_and_from_the_store_is_a_metric(status: Status) -> None:
    use = status.store
    use.operations["get"] = 3
    use.seconds["get"] = 1.5
    use.errors["get", "StoreUnavailable"] = 2
    use.bytes_in, use.bytes_out, use.in_flight = 7, 8, 1
    assert metric(status, "store_operations_total", operation="get") == 3
    assert metric(status, "store_operation_seconds_total", operation="get") == 1.5
    failed = {"operation": "get", "class": "StoreUnavailable"}
    assert metric(status, "store_errors_total", **failed) == 2
    assert metric(status, "store_bytes_total", direction="read") == 7
    assert metric(status, "store_bytes_total", direction="written") == 8
    assert metric(status, "store_operations_in_flight") == 1


def test_secrets_in_texts_are_masked(status: Status) -> None:
    error = "GET http://me:hunter2@store/x failed"
    status.enter(Phase.RESTORING, error)
    span = status.begin(Kind.FETCH, "x", error=error)
    span.note(again=error)
    span.end("failed", last=error)
    status.went_cold("store-unavailable", error)
    status.lost_root(1, error)
    text = json.dumps(status.snapshot())
    assert "hunter2" not in text
    assert text.count("http://***@store/x") == 7


def test_a_cold_root_has_no_generation(status: Status) -> None:
    status.restores(Generation("k", "k", 9, 1_000_000.0), 1)
    status.went_cold("root-lost", "the agent died")
    assert status.snapshot()["restored"] is None
    assert metric(status, "restored_generation") is None


async def test_waiters_are_woken_by_each_change() -> None:
    status = Status()
    seen: list[int] = []

    async def reader() -> None:
        version = 0
        while version < 3:
            version = await status.changed(version)
            seen.append(version)

    async with asyncio.TaskGroup() as group:
        group.create_task(reader())
        group.create_task(status.until(lambda state: state.ready))
        for phase in (Phase.RESTORING, Phase.STARTING_DAEMON, Phase.READY):
            await asyncio.sleep(0)
            status.enter(phase)
    assert seen[-1] == 3


async def test_a_change_before_the_wait_is_not_missed() -> None:
    status = Status()
    status.enter(Phase.READY)
    assert await status.changed(0) == 1
    await status.until(lambda state: state.ready)
