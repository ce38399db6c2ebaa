"""A pipeline of three steps in an unprivileged pod, in every kind of cluster, twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.kube import terminated
from tests.cluster.machinery import KINDS
from tests.cluster.pipeline import BUILD, COMPILE, GRACE, SIDECAR, Builds, Project, moment

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_DOCKERFILE = """\
FROM {base} AS packages
RUN dd if=/dev/urandom of=/packages bs=1M count=64
FROM {base}
COPY --from=packages /packages /packages
RUN --mount=type=cache,target=/cache echo built >>/cache/log && cp /cache/log /log
COPY greeting /greeting
RUN sha256sum /greeting /packages >/sums && id && cat /sums
"""
#: What compiles: some seconds of work, in which the sidecar restores.
_COMPILE = "sed s/NAME/world/ greeting.in >greeting && head -c 1500M /dev/zero | sha256sum"


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_pod_has_everything_cached(
    builds: Callable[[str], Builds], kind: str, report: Callable[[str], None]
) -> None:
    """The first pod publishes after its steps and within its grace period, for the second."""
    pipeline = builds(kind)
    project = Project(
        {"Dockerfile": _DOCKERFILE.format(base=pipeline.registry.busybox), "greeting.in": "NAME\n"},
        ("sh", "-c", _COMPILE),
    )
    first = pipeline.run(project)
    assert len(first.ran) == len(first.instructions)
    assert "uid=0" in first.output
    # The sidecar ended in order, after the last step, and in time.
    assert terminated(first.pod, SIDECAR)["exitCode"] == 0, first.logs[SIDECAR][-3000:]
    assert first.published_within < GRACE
    (generation,) = pipeline.store.generations()
    # The cluster tells whole seconds, and the store is on the same clock.
    assert generation["published_unix"] >= moment(terminated(first.pod, BUILD)["finishedAt"]) - 1
    digest = pipeline.registry.digest(f"{pipeline.namespace.name}/app", "build-1")
    assert digest in first.said

    second = pipeline.run(project)
    assert second.ran == [], second.logs[SIDECAR][-3000:]
    assert second.instructions
    assert pipeline.registry.digest(f"{pipeline.namespace.name}/app", "build-2") in second.said
    for name, outcome in (("first", first), ("second", second)):
        summary = outcome.said.splitlines()[-2:]
        report(
            f"{kind}, {name} pod: compile {outcome.seconds(COMPILE):.0f} s, image-build "
            f"{outcome.seconds(BUILD):.0f} s, published {outcome.published_within:.0f} s after it; "
            f"{' '.join(summary)}"
        )
