"""The calls to an API server, against one that has versions and conflicts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from buildsvc.errors import EnvironmentUnfit
from buildsvc.webhook.cluster import (
    ClusterError,
    Conflict,
    KubernetesCluster,
    Missing,
    Secret,
    connect,
)
from tests.unit.webhook.apiserver import ApiServer, connected


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest_asyncio.fixture
async def cluster(server: ApiServer) -> AsyncIterator[KubernetesCluster]:
    async with connected(server) as made:
        yield made


async def test_a_secret_is_made_changed_and_read(
    server: ApiServer, cluster: KubernetesCluster
) -> None:
    nothing = await cluster.read_secret()
    assert nothing == Secret("", {})
    await cluster.write_secret(nothing, {"a": b"1", "b": b"\0", "c": None})
    server.secret["metadata"]["labels"] = {"app": "x"}
    first = await cluster.read_secret()
    assert first.data == {"a": b"1", "b": b"\0"}
    await cluster.write_secret(first, {"a": None, "b": b"2"})
    assert (await cluster.read_secret()).data == {"b": b"2"}
    assert server.secret["metadata"]["labels"] == {"app": "x"}


async def test_of_two_writers_the_second_learns_of_the_first(cluster: KubernetesCluster) -> None:
    nothing = await cluster.read_secret()
    await cluster.write_secret(nothing, {"a": b"1"})
    with pytest.raises(Conflict):
        await cluster.write_secret(nothing, {"a": b"2"})
    first = await cluster.read_secret()
    await cluster.write_secret(first, {"a": b"3"})
    with pytest.raises(Conflict):
        await cluster.write_secret(first, {"a": b"4"})
    assert (await cluster.read_secret()).data == {"a": b"3"}


async def test_all_webhooks_of_a_configuration_trust(
    server: ApiServer, cluster: KubernetesCluster
) -> None:
    with pytest.raises(Missing):
        await cluster.read_trusting()
    server.install(webhooks=2)
    before = await cluster.read_trusting()
    assert before.bundles == (b"", b"")
    await cluster.write_trusting(before, b"PEM")
    assert (await cluster.read_trusting()).bundles == (b"PEM", b"PEM")
    assert server.configuration["webhooks"][0]["clientConfig"]["service"] == {"name": "x"}
    with pytest.raises(Conflict):
        await cluster.write_trusting(before, b"older")


async def test_what_is_refused_is_explained(server: ApiServer, cluster: KubernetesCluster) -> None:
    server.refuse = lambda _method, _path: 403
    with pytest.raises(ClusterError, match=r"GET /api/v1/.*403.*role of docs/injection.md"):
        await cluster.read_secret()


async def test_an_api_server_that_is_away() -> None:
    server = ApiServer()
    async with connected(server) as cluster:
        cluster._client.configuration.host = "http://127.0.0.1:1"
        with pytest.raises(ClusterError, match="does not answer"):
            await cluster.read_secret()


async def test_outside_of_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(EnvironmentUnfit, match="service account"):
        await connect("ci", "x", "y")
