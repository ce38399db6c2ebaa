"""The certificate: made once by several replicas, trusted before it is served, replaced in time."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from cryptography import x509

from buildsvc.webhook.certificates import Keeping, Pair, new_keeping
from buildsvc.webhook.cluster import ClusterError, Conflict, KubernetesCluster, Secret
from buildsvc.webhook.metrics import Metrics
from buildsvc.webhook.rotation import SETTLE, CertificateKeeper
from buildsvc.webhook.tls import ServingContext
from tests.unit.webhook.apiserver import ApiServer, connected

NAME = "buildsvc-webhook.ci.svc"
LIFETIME = timedelta(days=90)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class Replica:
    """One keeper with clocks that the test moves."""

    def __init__(self, cluster: KubernetesCluster, time: Time, names: tuple[str, ...]) -> None:
        self.served: list[Pair] = []
        self.metrics = Metrics()
        self.keeper = CertificateKeeper(
            cluster, names, LIFETIME, serve=self.served.append, metrics=self.metrics,
            now=lambda: BEGIN + timedelta(seconds=time.now), clock=lambda: time.now,
        )  # fmt: skip

    async def keep(self) -> None:
        """A pass, and another one where somebody else was first, as in its loop."""
        try:
            await self.keeper.keep()
        except Conflict:
            await self.keeper.keep()


class Time:
    """Seconds since the beginning."""

    now = 0.0


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def server() -> ApiServer:
    made = ApiServer()
    made.install(webhooks=2)
    return made


Replicate = Callable[..., Replica]


@pytest_asyncio.fixture
async def cluster(server: ApiServer) -> AsyncIterator[KubernetesCluster]:
    async with connected(server) as made:
        yield made


@pytest.fixture
def replica(cluster: KubernetesCluster, time: Time) -> Replicate:
    return lambda *names: Replica(cluster, time, names or (NAME,))


def trusted(server: ApiServer) -> bytes:
    bundles = {one["clientConfig"]["caBundle"] for one in server.configuration["webhooks"]}
    assert len(bundles) == 1
    return base64.b64decode(bundles.pop())


def verify(bundle: bytes, pair: Pair) -> None:
    """Check that who trusts the bundle trusts a server with the pair, as TLS does it."""
    serving = ServingContext()
    serving.use(pair)
    context = ssl.create_default_context(cadata=bundle.decode())
    # As API servers and newer Pythons do.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname=NAME)
    served = serving.context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, served):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.getpeercert()


async def test_one_replica_makes_it_and_is_trusted(server: ApiServer, replica: Replicate) -> None:
    one = replica()
    assert one.keeper.problem
    await one.keep()
    assert one.keeper.problem == ""
    [pair] = one.served
    assert pair.fits([NAME], BEGIN)
    assert Keeping.read(
        {name: base64.b64decode(text) for name, text in server.secret["data"].items()}
    ) == Keeping(pair, trusted(server))
    before = list(server.requests)
    await one.keep()
    # Nothing is to be done: nothing is written, and nothing served anew.
    assert {method for method, _ in server.requests[len(before) :]} == {"GET"}
    assert one.served == [pair]


async def test_replicas_that_start_at_one_moment_share_one(
    server: ApiServer, replica: Replicate
) -> None:
    several = [replica() for _ in range(5)]
    for _ in range(3):
        await asyncio.gather(*(one.keep() for one in several), return_exceptions=True)
    for one in several:
        await one.keep()
    assert {one.served[-1] for one in several} == {several[0].served[-1]}
    assert len(x509.load_pem_x509_certificates(trusted(server))) == 1


async def test_nobody_ever_serves_what_is_not_trusted(
    server: ApiServer, replica: Replicate, time: Time
) -> None:
    several = [replica(), replica()]
    step = 24 * 3600.0
    for number in range(400):
        # One of them is late at times, as when its node is.
        for one in several if number % 5 else several[:1]:
            await one.keep()
        time.now += SETTLE / 2 if number % 2 else step
        for one in several:
            if one.served:
                now = BEGIN + timedelta(seconds=time.now)
                authorities = x509.load_pem_x509_certificates(trusted(server))
                issuer = x509.load_pem_x509_certificate(one.served[-1].certificate).issuer
                assert issuer in {authority.subject for authority in authorities}
                assert one.served[-1].ends > now
                assert len(authorities) <= 3
    changes = len(several[0].served)
    # 200 days, and a change each 60.
    assert changes == pytest.approx(time.now / (60 * 86400), abs=2)
    assert changes > 2


async def test_the_next_one_waits_until_all_api_servers_trust_it(
    server: ApiServer, replica: Replicate, time: Time
) -> None:
    one = replica()
    await one.keep()
    [first] = one.served
    time.now = LIFETIME.total_seconds() * 2 / 3
    await one.keep()
    assert one.served == [first]
    assert len(x509.load_pem_x509_certificates(trusted(server))) == 2
    await one.keep()
    time.now += SETTLE - 1
    await one.keep()
    assert one.served == [first]
    time.now += 1
    # Somebody has put the old one back meanwhile, such as an installer.
    server.configuration["webhooks"][0]["clientConfig"]["caBundle"] = ""
    await one.keep()
    assert one.served == [first]
    await one.keep()
    time.now += SETTLE
    await one.keep()
    assert len(one.served) == 2
    assert len(x509.load_pem_x509_certificates(trusted(server))) == 2
    assert "next.crt" not in server.secret["data"]


async def test_an_older_bundle_never_replaces_a_newer_one(
    server: ApiServer, cluster: KubernetesCluster, replica: Replicate, time: Time
) -> None:
    slow, fast = replica(), replica()
    await slow.keep()
    await fast.keep()
    time.now = LIFETIME.total_seconds() * 2 / 3 - 1
    server.configuration["webhooks"][0]["clientConfig"]["caBundle"] = ""
    reading = cluster.read_secret
    overtaken = asyncio.Event()

    async def late() -> Secret:
        found = await reading()
        if not overtaken.is_set():
            overtaken.set()
            time.now += 1
            await fast.keep()
            time.now -= 1
        return found

    cluster.read_secret = late  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await slow.keeper.keep()
    assert len(x509.load_pem_x509_certificates(trusted(server))) == 2


@pytest.mark.parametrize("broken", ["tls.key", "tls.crt", "ca.crt"])
async def test_a_secret_that_is_none_is_made_good(
    server: ApiServer, replica: Replicate, broken: str
) -> None:
    await replica().keep()
    server.secret["data"][broken] = base64.b64encode(b"nonsense").decode()
    one = replica()
    await one.keep()
    assert one.served[0].fits([NAME], BEGIN)
    verify_names = x509.load_pem_x509_certificates(trusted(server))
    assert verify_names[0].subject == (
        x509.load_pem_x509_certificate(one.served[0].certificate).issuer
    )


async def test_an_empty_secret_of_an_installer_is_filled(
    server: ApiServer, replica: Replicate
) -> None:
    server.put("/api/v1/namespaces/ci/secrets/buildsvc-webhook-tls", {"metadata": {"labels": {}}})
    one = replica()
    await one.keep()
    assert one.keeper.problem == ""
    assert "POST" not in {method for method, _ in server.requests}


async def test_another_name_needs_another_certificate(
    server: ApiServer, replica: Replicate, time: Time
) -> None:
    await replica().keep()
    one = replica(NAME, "other.example")
    await one.keep()
    assert one.served[0].fits(["other.example"], BEGIN)
    assert not one.served[0].fits(["192.0.2.1"], BEGIN)
    # Also one that is waiting for its turn.
    time.now = LIFETIME.total_seconds() * 2 / 3
    await one.keep()
    assert "next.crt" in server.secret["data"]
    two = replica(NAME, "192.0.2.1", "2001:db8::1")
    for _ in range(3):
        await two.keep()
        time.now += SETTLE
    assert two.served[-1].fits(
        [NAME, "192.0.2.1", "2001:db8:0::1"], BEGIN + timedelta(seconds=time.now)
    )


async def test_without_a_configuration_it_is_not_ready(
    server: ApiServer, replica: Replicate
) -> None:
    server.objects.clear()
    one = replica()
    await one.keep()
    assert "no webhook configuration" in one.keeper.problem
    server.install()
    await one.keep()
    assert one.keeper.problem == ""


async def test_what_is_trusted_stays_ready_while_the_api_server_is_away(
    server: ApiServer, replica: Replicate
) -> None:
    one = replica()
    server.refuse = lambda _method, _path: 503
    with pytest.raises(ClusterError):
        await one.keeper.keep()
    assert "503" in one.keeper.problem
    server.refuse = lambda _method, _path: 0
    await one.keep()
    server.refuse = lambda _method, _path: 503
    with pytest.raises(ClusterError):
        await one.keeper.keep()
    assert one.keeper.problem == ""


def test_tls_trusts_what_is_made() -> None:
    keeping = new_keeping([NAME], LIFETIME, datetime.now(UTC))
    verify(keeping.trusted, keeping.current)
    other = new_keeping([NAME], LIFETIME, datetime.now(UTC))
    with pytest.raises(ssl.SSLCertVerificationError):
        verify(other.trusted, keeping.current)
    # Both at one time, as between two certificates.
    both = new_keeping([NAME], LIFETIME, datetime.now(UTC), keeping.trusted)
    verify(both.trusted, keeping.current)
    verify(both.trusted, both.current)


def test_one_that_has_ended_is_trusted_no_more() -> None:
    old = new_keeping([NAME], LIFETIME, BEGIN)
    new = new_keeping([NAME], LIFETIME, BEGIN + LIFETIME, old.trusted)
    assert len(x509.load_pem_x509_certificates(new.trusted)) == 1


async def test_the_loop_goes_on_after_failures(
    server: ApiServer, replica: Replicate, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = replica()
    pauses: list[float] = []
    ready = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        server.refuse = (lambda _method, _path: 500) if len(pauses) < 3 else (lambda *_: 0)
        if one.served:
            ready.set()
            await asyncio.Event().wait()

    server.refuse = lambda _method, _path: 500
    monkeypatch.setattr("buildsvc.webhook.rotation.asyncio.sleep", sleep)
    task = asyncio.create_task(one.keeper.run())
    await ready.wait()
    task.cancel()
    assert len(pauses) == 4
    assert pauses[0] <= 2.0 < pauses[2] <= 8.0 < pauses[3] <= 60.0
