"""The pages: what each answers, that they only read, and whom they answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest
from blockbuster import BlockBuster, blockbuster_ctx

from sidecar.endpoint import Address, bind, bound_address
from sidecar.http import StatusServer
from sidecar.status import Generation, Phase, Status
from sidecar.timeline import Kind


@pytest.fixture(autouse=True)
def never_blocks() -> Iterator[BlockBuster]:
    with blockbuster_ctx("sidecar") as found:
        yield found


@pytest.fixture
async def status() -> Status:
    return Status()


@pytest.fixture
async def client(status: Status) -> AsyncIterator[aiohttp.ClientSession]:
    listener = bind(Address("127.0.0.1", 0))
    at = bound_address(listener)
    async with (
        StatusServer(status, listener),
        aiohttp.ClientSession(f"http://{at}") as session,
    ):
        yield session


async def test_health_is_liveness_only(client: aiohttp.ClientSession, status: Status) -> None:
    for phase in (Phase.STARTING, Phase.READY, Phase.DRAINING):
        status.enter(phase)
        async with client.get("/healthz") as answer:
            assert answer.status == 200


async def test_readiness_has_a_reason(client: aiohttp.ClientSession, status: Status) -> None:
    status.enter(Phase.RESTORING, "layers are missing")
    async with client.get("/readyz") as answer:
        assert answer.status == 503
        assert (await answer.json())["reason"] == "layers are missing"
    status.enter(Phase.READY)
    async with client.get("/readyz") as answer:
        assert answer.status == 200
        assert (await answer.json()) == {"ready": True, "phase": "ready", "reason": ""}


async def test_metrics(client: aiohttp.ClientSession, status: Status) -> None:
    status.begin(Kind.FETCH, "x", why="demand").end(bytes=42)
    async with client.get("/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = await answer.text()
    assert 'buildsvc_sidecar_fetched_bytes_total{why="demand"} 42.0' in text


async def test_status_and_what_changed_since(client: aiohttp.ClientSession, status: Status) -> None:
    status.restores(Generation("a", "b", 1, 0.0), 3)
    status.begin(Kind.BUILD, "one")
    async with client.get("/status") as answer:
        found = await answer.json()
    assert found["restored"]["found_key"] == "b"
    assert len(found["timeline"]) == 1
    status.begin(Kind.BUILD, "two")
    async with client.get("/status", params={"since": found["version"]}) as answer:
        assert [span["name"] for span in (await answer.json())["timeline"]] == ["two"]
    for wrong in ("x", "-1", "9" * 40):
        async with client.get("/status", params={"since": wrong}) as answer:
            assert answer.status == 400


async def test_the_page_needs_nobody_else(client: aiohttp.ClientSession) -> None:
    async with client.get("/") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/html"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        text = await answer.text()
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in text
    assert "innerHTML" not in text, "names in the timeline are not ours to trust"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/healthz", "/readyz"])
async def test_nothing_can_be_changed(
    client: aiohttp.ClientSession, method: str, path: str
) -> None:
    async with client.request(method, path) as answer:
        assert answer.status == 405


async def test_unknown_paths(client: aiohttp.ClientSession) -> None:
    async with client.get("/etc/passwd") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200),
        ("localhost:8378", 200),
        ("[::1]:1", 200),
        ("127.0.0.1", 200),
        ("evil.example", 403),
        ("evil.example:8378", 403),
        ("localhost.evil.example", 403),
    ],
)
async def test_on_loopback_only_its_names_are_answered(
    client: aiohttp.ClientSession, host: str, expected: int
) -> None:
    async with client.get("/status", headers={"Host": host}) as answer:
        assert answer.status == expected
