"""A pipeline of three steps in an unprivileged pod, in every kind of cluster, twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.kube import terminated
from tests.cluster.machinery import KINDS
from tests.cluster.pipeline import BUILD, COMPILE, GRACE, SIDECAR, Builds, moment
from tests.cluster.projects import instructions, layers

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_pod_has_everything_cached(
    builds: Callable[[str], Builds], kind: str, report: Callable[[str], None]
) -> None:
    """The first pod publishes after its steps and within its grace period, for the second."""
    pipeline = builds(kind)
    project = layers(pipeline.registry)
    first = pipeline.run(project)
    assert len(first.ran) == len(first.instructions)
    assert "uid=0" in first.output
    # The sidecar ended in order, after the last step, and in time.
    assert terminated(first.pod, SIDECAR)["exitCode"] == 0, first.logs[SIDECAR][-3000:]
    assert first.published_within < GRACE
    # A network of their own for RUN steps, and so no need for certificates, is what tun is about.
    shared = "RUN steps share the network of this pod" in first.logs[SIDECAR]
    assert shared == (kind != "tun"), first.logs[SIDECAR][:1000]
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


_APT = (
    "RUN apt-get update && apt-get install -y --no-install-recommends python3-venv",
    "ENV PIP_CERT=/usr/local/share/buildsvc-ca.crt",
    "RUN python3 -m venv /venv",
    "RUN /venv/bin/pip install --disable-pip-version-check tenacity==9.2.1",
    'RUN /venv/bin/python -c "import tenacity"',
)


def test_a_build_with_apt_and_pip(
    builds: Callable[[str], Builds], report: Callable[[str], None]
) -> None:
    """As most Dockerfiles do: packages of Debian and of PyPI, many small files, their owners."""
    pipeline = builds("unconfined")
    project = instructions(pipeline.registry, *_APT, base=pipeline.registry.debian)
    first = pipeline.run(project)
    second = pipeline.run(project)
    assert first.ran
    assert second.ran == []
    report(f"apt and pip: {first.seconds(BUILD):.0f} s, then {second.seconds(BUILD):.0f} s")
