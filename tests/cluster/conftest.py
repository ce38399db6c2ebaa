"""What tests on the cluster have in common: the cluster, its registry, a store, a namespace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from perf.host import scratch
from tests import minio
from tests.cluster.kube import KubeError, Namespace, namespace
from tests.cluster.machinery import KINDS, LEVELS, Registry, Store
from tests.cluster.pipeline import Builds

_ADDRESS = "BUILDSVC_CLUSTER_REGISTRY"
_TAG = "BUILDSVC_CLUSTER_TAG"


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The registry with the images; without it, or the cluster, the tests fail: none is skipped."""
    missing = [name for name in ("kubectl", "helm", "minio") if shutil.which(name) is None]
    assert not missing, f"programs missing: {', '.join(missing)}; run `make test-cluster`"
    assert os.environ.get(_ADDRESS), f"{_ADDRESS} is not set; run `make test-cluster`"
    try:
        Namespace("default").run("get", "nodes")
    except KubeError as error:
        pytest.fail(f"no cluster: {error}; run `make test-cluster`")
    return Registry(os.environ[_ADDRESS], os.environ[_TAG])


@pytest.fixture(scope="session")
def server(registry: Registry) -> Iterator[minio.Minio]:
    """A MinIO outside the cluster, on an address that pods reach."""
    with scratch(Path(os.environ.get("TMPDIR", "/tmp")), "bs-minio") as directory:
        address = registry.host.partition(":")[0]
        with minio.running(directory / "minio", address=address) as running:
            yield running


@pytest.fixture
def programs() -> Path:
    """The directory of programs such as buildx, for a step to mount."""
    found = shutil.which("buildx")
    assert found, "there is no buildx; run `make test-cluster`"
    return Path(found).parent


@pytest.fixture
def store(server: minio.Minio, request: pytest.FixtureRequest) -> Store:
    """An empty store."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    return Store(server, f"{name}/")


@pytest.fixture
def builds(registry: Registry, store: Store) -> Iterator[Callable[[str], Builds]]:
    """Builds of a kind, in a namespace of their own."""
    with ExitStack() as stack:

        def made(kind: str) -> Builds:
            assert kind in KINDS
            label = {"pod-security.kubernetes.io/enforce": LEVELS[kind]}
            return Builds(stack.enter_context(namespace(kind, label)), registry, store, kind)

        yield made
