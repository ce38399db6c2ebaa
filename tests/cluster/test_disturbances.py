"""What may happen to a pod: nothing that was published is lost, and it is said what happened."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.containers import kill
from tests.cluster.kube import Object, container_status, ended, terminated
from tests.cluster.pipeline import BUILD, SIDECAR, Builds, Outcome
from tests.cluster.projects import layers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

#: An instruction that is met while it runs.
_LONG = "RUN echo it-runs && sleep 600\n"


@pytest.fixture
def pipeline(builds: Callable[[str], Builds]) -> Builds:
    """Builds with one generation in the store, of the project without anything more."""
    made = builds("unconfined")
    made.run(layers(made.registry))
    assert [one["number"] for one in made.store.generations()] == [1]
    return made


def _nothing_lost(pipeline: Builds) -> Outcome:
    """The newest generation is whole, and a new pod has all of the first build from it."""
    found = pipeline.store.ask("verify", pipeline.store.key(), "--deep")
    assert found["problems"] == []
    after = pipeline.run(layers(pipeline.registry))
    assert after.ran == [], after.logs[SIDECAR][-3000:]
    return after


def _running(span: Object, kind: str) -> bool:
    return bool(span["kind"] == kind and span["end"] is None)


def _in_the_middle_of(kind: str) -> Callable[[Object], bool]:
    return lambda status: any(_running(span, kind) for span in status["timeline"])


def test_the_pod_is_deleted_while_it_builds(pipeline: Builds) -> None:
    """The step is told, ends, and the sidecar after it, in the grace period."""
    pod = pipeline.start(layers(pipeline.registry, _LONG))
    pipeline.wait_said(pod, BUILD, "it-runs")
    pipeline.remove(pod)
    last = pipeline.namespace.wait(
        pod, lambda now: bool(terminated(now, SIDECAR)), "end of the sidecar"
    )
    assert terminated(last, BUILD)["exitCode"] == 143
    assert terminated(last, SIDECAR)["exitCode"] == 0
    _nothing_lost(pipeline)


@pytest.mark.parametrize("kind", ["checkpoint", "publish"])
def test_the_pod_is_killed_while_it_publishes(pipeline: Builds, kind: str) -> None:
    """As a node's end does it: the generation that was there stays, and is whole."""
    # So slow that it is met in the act.
    pod = pipeline.start(layers(pipeline.registry, "RUN true\n", size=48), uploadLimit="2MB")
    pipeline.wait_status(pod, _in_the_middle_of(kind), f"a {kind}")
    pipeline.kill(pod)
    assert [one["number"] for one in pipeline.store.generations()] == [1]
    _nothing_lost(pipeline)


def test_the_sidecar_is_killed_while_it_builds(pipeline: Builds) -> None:
    """It comes back; the step says what happened; the same step again, in the same pod, works."""

    def twice(pod: Object) -> None:
        (step,) = pod["containers"]
        # Only the first of them comes to the instruction that waits.
        again = "BUILDSVC_IMAGE_TARGET=app buildsvc image-build"
        step["command"] = ["sh", "-c", f"buildsvc image-build; echo first=$?; {again}"]

    slow = "FROM app AS slow\nRUN echo it-runs && sleep 600\n"
    pod = pipeline.start(layers(pipeline.registry, slow), change=twice)
    pipeline.wait_said(pod, BUILD, "it-runs")
    kill(container_status(pipeline.namespace.get("pod", pod), SIDECAR))
    outcome = pipeline.outcome(pod)
    assert container_status(outcome.pod, SIDECAR)["restartCount"] == 1
    assert "first=1" in outcome.logs[BUILD]
    assert "the sidecar ended during the build" in outcome.said
    assert "run the step again" in outcome.said
    assert outcome.code == 0, outcome.said
    _nothing_lost(pipeline)


def test_a_run_step_hits_the_limit_of_memory(pipeline: Builds) -> None:
    """It is killed and the build fails; the sidecar goes on, and publishes what there is."""
    limited = {"requests": {"memory": "256Mi"}, "limits": {"memory": "768Mi"}}
    # The block is read into memory.
    greedy = "RUN dd if=/dev/zero of=/dev/null bs=2000M count=1\n"
    pod = pipeline.start(layers(pipeline.registry, greedy), resources=limited)
    outcome = pipeline.outcome(pod)
    assert outcome.code == 1
    assert "137" in outcome.logs[BUILD]
    assert terminated(outcome.pod, SIDECAR)["exitCode"] == 0
    assert container_status(outcome.pod, SIDECAR)["restartCount"] == 0
    _nothing_lost(pipeline)


def test_the_volume_is_full(pipeline: Builds) -> None:
    """The kubelet evicts the pod, and says so; the store keeps what it had."""
    big = "RUN dd if=/dev/zero of=/big bs=1M count=1500 && sleep 600\n"
    pod = pipeline.start(layers(pipeline.registry, big), rootSize="1Gi")
    last = pipeline.namespace.wait(pod, ended, "eviction")
    assert last["status"]["reason"] == "Evicted"
    assert "buildsvc-root" in last["status"]["message"]
    _nothing_lost(pipeline)
