"""RUN steps that attack: the endpoint, the store's credentials, metadata, others' caches.

Each attack is a Dockerfile as anybody could write it, with the very client of the daemon where
that helps. What an attack sees is written to the build's output, where the test looks for what it
must not see. Each one also shows that it sees something: a check that cannot fail shows nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import minio
from tests.cluster.machinery import KINDS
from tests.cluster.metadata import ADDRESS, SECRET, served
from tests.cluster.pipeline import SIDECAR, Builds
from tests.cluster.policies import enforced
from tests.cluster.projects import instructions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

#: Whatever fails, the build goes on, and says with what.
_TRY = 'RUN ( {command} ) 2>&1; printf "\\n{name}=%s\\n" $?'
#: Python, since the wget of a busybox that is linked statically dies of names.
_FETCH = (
    """python3 -c 'import sys, urllib.request as u; print(u.urlopen("{url}", timeout=5).read())'"""
)
#: Where a client's key, credentials and sockets lie in the sidecar's container.
_PLACES = (
    "run/buildsvc/tls/client/key.pem", "var/lib/buildsvc", "home/buildsvc", "etc/buildsvc",
)  # fmt: skip
_SECRETS = " ".join(f"/proc/[0-9]*/root/{place}" for place in _PLACES)
#: Roots of all processes that can be seen, each once.
_ROOTS = (
    """$(stat -Lc "%d:%i %n" / /proc/[0-9]*/root/ 2>/dev/null | sort -u -k1,1 | cut -d" " -f2)"""
)
_SOCKETS = f"""$(find {_ROOTS} -xdev -name "*.sock" 2>/dev/null)"""
_WORKERS = "buildctl --timeout=5 --addr={address} debug workers"
#: Over TCP, or through a Unix socket of the daemon or the agent.
_ENDPOINT = {
    "control": "buildctl --version",
    "plain": _WORKERS.format(address="tcp://127.0.0.1:1234"),
    "named": _WORKERS.format(address="tcp://localhost:1234"),
    "unix": f"for s in {_SOCKETS}; do {_WORKERS.format(address='unix://$s')} && exit; done; exit 3",
}
#: In the environments, files and memory of the pod's processes. Their command lines, which a step
#: does see, have none.
_CREDENTIALS = {
    "control": "cat /proc/[0-9]*/cmdline | tr '\\0' ' '",
    "environment-control": "cat /proc/self/environ | tr '\\0' '\\n' | grep ^PATH",
    "environment": "cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -e AWS -e SECRET",
    "files": f"cat {_SECRETS} | grep -e PRIVATE -e AWS -e secret",
    "account": "cat /var/run/secrets/kubernetes.io/serviceaccount/token",
}


def _attack(builds: Builds, **commands: str) -> dict[str, str]:
    """Run each command in a RUN step; return its exit code by its name, and all output as ""."""
    lines = [_TRY.format(command=command, name=name) for name, command in commands.items()]
    # The image has the client, and Python.
    step = f"{builds.registry.host}/buildsvc-step:{builds.registry.tag}"
    project = instructions(builds.registry, "USER 0:0", *lines, base=step)
    outcome = builds.run(project)
    found = dict(
        line.split("=", 1) for line in outcome.output.splitlines() if line.split("=")[0] in commands
    )
    assert sorted(found) == sorted(commands), outcome.output
    # The sidecar is as it was: nobody has restarted or stopped it.
    assert "Traceback" not in outcome.logs[SIDECAR]
    return {**found, "": outcome.output}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_run_steps_cannot_be_reached(
    builds: Callable[[str], Builds], kind: str
) -> None:
    """Neither the endpoint, nor the store's credentials, nor another tenant's cache."""
    one = builds(kind)
    one.run(instructions(one.registry, "RUN echo somebody-elses >/else"))
    attacks = {"endpoint": _ENDPOINT, "credentials": _CREDENTIALS, "tenant": _another_tenant(one)}
    commands = {
        f"{what}-{name}": command
        for what, some in attacks.items()
        for name, command in some.items()
    }
    found = _attack(one, **commands)
    for name in commands:
        assert (found[name] == "0") == name.endswith("-control"), f"{name}: {found['']}"
    # All sockets were tried.
    assert found["endpoint-unix"] == "3", found[""]
    # What a daemon says of its workers.
    assert "linux/amd64" not in found[""]
    assert minio.SECRET not in found[""]


def _another_tenant(builds: Builds) -> dict[str, str]:
    """Without credentials the store answers nobody, and it is the same store for all."""
    (generation,) = builds.store.generations()
    root = f"{builds.store.prefix}roots/{generation['root'][:2]}/{generation['root']}"
    server = builds.store.server.endpoint
    return {
        "control": _FETCH.format(url=f"{server}/minio/health/live"),
        "listing": _FETCH.format(url=f"{server}/{minio.BUCKET}?list-type=2"),
        "reading": _FETCH.format(url=f"{server}/{minio.BUCKET}/{root}"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_metadata_address_cannot_be_reached(
    builds: Callable[[str], Builds], kind: str, tmp_path: Path
) -> None:
    """In a network of their own RUN steps have no route there; else the chart's policy forbids it.

    The cluster of the tests does not enforce policies, so that is done here, of what the API
    server has: the policy is what is tested. Without it the address answers RUN steps.
    """
    one = builds(kind)
    ask = _FETCH.format(url=f"http://{ADDRESS}/latest/meta-data/")
    with served(tmp_path):
        open_ = _attack(one, metadata=ask)
        if kind == "tun":
            assert open_["metadata"] != "0"
        else:
            assert open_["metadata"] == "0", open_[""]
        with enforced(json.loads(one.namespace.run("get", "networkpolicies", "--output=json"))):
            control = _FETCH.format(url=f"http://{one.registry.host}/v2/")
            # Another text than before: what is cached does not run again.
            closed = _attack(one, metadata=f": enforced; {ask}", control=control)
    assert closed["metadata"] != "0"
    assert closed["control"] == "0", closed[""]
    assert SECRET not in closed[""]
