"""Programs that know nothing of us, in a step's place: buildx, bake, and several builds at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.kube import Object, terminated
from tests.cluster.machinery import Registry
from tests.cluster.pipeline import BUILD, SIDECAR, Builds, Project

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

TARGETS, SINGLES = 10, 4
_KEYS = "/run/buildsvc/tls/client"
_ADDRESS = "tcp://localhost:1234"
#: What a step runs: a bake of all targets, and builds beside it, all at once.
_SCRIPT = f"""\
set -eu
export HOME=/tmp BUILDX_BAKE_ENTITLEMENTS_FS=0
until [ -s {_KEYS}/key.pem ]; do sleep 0.1; done
keys=cacert={_KEYS}/ca.pem,cert={_KEYS}/cert.pem,key={_KEYS}/key.pem
/tools/buildx create --name=pod --driver=remote --driver-opt=$keys {_ADDRESS}
/tools/buildx bake --builder=pod --progress=plain --file=bake.json >bake.log 2>&1 &
waited=$!
# The daemon is never idle in between.
until grep -q "RUN dd" bake.log; do sleep 0.1; done
for n in $(seq {SINGLES}); do
  buildctl --addr={_ADDRESS} --tlsdir={_KEYS} build --progress=plain --frontend=dockerfile.v0 \\
    --local=context=. --local=dockerfile=. --opt=filename=single-$n >single-$n.log 2>&1 &
  waited="$waited $!"
done
code=0
for one in $waited; do wait $one || code=$?; done
for log in *.log; do echo "log of $log"; cat $log; done
exit $code
"""


def _project(registry: Registry) -> Project:
    targets = {
        f"t{n}": {
            "context": ".", "target": f"t{n}", "tags": [f"{registry.host}/bake/{n}:1"],
            "output": ["type=registry"], "attest": ["type=provenance,disabled=true"],
        }
        for n in range(TARGETS)
    }  # fmt: skip
    bake = {"group": {"default": {"targets": [*targets]}}, "target": targets}
    stages = [f"FROM base AS t{n}\nRUN echo {n} >/target\n" for n in range(TARGETS)]
    base = (
        f"FROM {registry.busybox} AS base\n"
        "RUN dd if=/dev/urandom of=/base bs=1M count=8 && sleep 5\n"
    )
    singles = {
        f"single-{n}": f"FROM {registry.busybox}\nRUN echo {n} >/single\n"
        for n in range(1, SINGLES + 1)
    }
    files = {"Dockerfile": base + "".join(stages), "bake.json": json.dumps(bake), **singles}
    return Project({**files, "greeting.in": "NAME\n"})


def _with_buildx(directory: Path) -> Callable[[Object], None]:
    """Run the script in the step's container, with the node's buildx."""

    def change(pod: Object) -> None:
        (step,) = pod["containers"]
        step["command"] = ["sh", "-c", _SCRIPT]
        step["volumeMounts"].append({"name": "tools", "mountPath": "/tools", "readOnly": True})
        pod["volumes"].append({"name": "tools", "hostPath": {"path": str(directory)}})

    return change


def test_bake_and_four_builds_at_once(
    builds: Callable[[str], Builds], programs: Path, report: Callable[[str], None]
) -> None:
    """All are served, one generation has them all, and the next pod has everything cached."""
    pipeline = builds("unconfined")
    project = _project(pipeline.registry)
    first = pipeline.run(project, change=_with_buildx(programs))
    assert terminated(first.pod, SIDECAR)["exitCode"] == 0
    assert len(pipeline.store.generations()) == 1
    for n in range(TARGETS):
        assert pipeline.registry.digest(f"bake/{n}", "1")
    second = pipeline.run(project, change=_with_buildx(programs))
    # That of the base, one a target, and one a build.
    assert _runs(first.logs[BUILD]) == [False] * (1 + TARGETS + SINGLES)
    assert _runs(second.logs[BUILD]) == [True] * (1 + TARGETS + SINGLES)
    took = [one.seconds(BUILD) for one in (first, second)]
    report(f"bake with ten targets and four builds: {took[0]:.0f} s, then {took[1]:.0f} s")


def _runs(text: str) -> list[bool]:
    """Return of each RUN instruction in the logs whether it was cached."""
    cached = []
    for log in text.split("log of ")[1:]:
        numbers = set(re.findall(r"^#(\d+) \[.*\] RUN ", log, re.MULTILINE))
        cached += [f"\n#{number} CACHED" in log for number in numbers]
    return cached
