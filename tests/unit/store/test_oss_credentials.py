"""Where credentials come from, and that they are renewed in time and once."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from buildsvc.errors import BuildsvcError, StoreRefused, StoreUnavailable
from buildsvc.store.httpconnection import Call
from buildsvc.store.ossaddress import oss_address
from buildsvc.store.osscredentials import (
    FILE_EVERY,
    Credentials,
    CredentialSource,
    FileCredentials,
)
from buildsvc.store.osslookup import credential_source
from buildsvc.store.ossrenewal import PAUSE, RenewedCredentials
from buildsvc.store.ossroles import EARLY, InstanceRole, ServiceAccountRole
from tests.ossserver.identity import PROVIDER_ARN, ROLE, ROLE_ARN, Identities
from tests.ossserver.server import Key
from tests.unit.store.ossserving import Given, oss_server, oss_store
from tests.unit.store.serving import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAIN = "oss://bucket?region=cn-hangzhou"
RRSA = {
    "ALIBABA_CLOUD_ROLE_ARN": ROLE_ARN,
    "ALIBABA_CLOUD_OIDC_PROVIDER_ARN": PROVIDER_ARN,
    "ALIBABA_CLOUD_OIDC_TOKEN_FILE": "/token",
}


def fetched(source: CredentialSource, now: float = 0.0) -> Credentials:
    return source.fetch(Call(), now)


def test_secrets_are_not_in_the_representation() -> None:
    shown = repr(Credentials("LTAI", "hunter2", "sesame"))
    assert "LTAI" in shown
    assert "hunter2" not in shown
    assert "sesame" not in shown


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"OSS_ACCESS_KEY_ID": "a", "OSS_ACCESS_KEY_SECRET": "b"},
            Credentials("a", "b"),
        ),
        (
            {"OSS_ACCESS_KEY_ID": "a", "OSS_ACCESS_KEY_SECRET": "b", "OSS_SESSION_TOKEN": "c"},
            Credentials("a", "b", "c"),
        ),
        (
            {
                "OSS_ACCESS_KEY_ID": "",
                "ALIBABA_CLOUD_ACCESS_KEY_ID": "a",
                "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "b",
                "ALIBABA_CLOUD_SECURITY_TOKEN": "c",
            },
            Credentials("a", "b", "c"),
        ),
    ],
)
def test_the_environment(environ: dict[str, str], expected: Credentials) -> None:
    source = credential_source(oss_address(urlsplit(PLAIN)), {**environ, **RRSA})
    assert fetched(source) == expected
    assert not source.renews


@pytest.mark.parametrize(
    ("address", "environ", "kind"),
    [
        (PLAIN, RRSA, ServiceAccountRole),
        (PLAIN, {"ALIBABA_CLOUD_CREDENTIALS_FILE": "/a"}, FileCredentials),
        (f"{PLAIN}&credentials=file", {}, FileCredentials),
        (f"{PLAIN}&credentials=ecs", RRSA, InstanceRole),
        (f"{PLAIN}&credentials=oidc", {**RRSA, "OSS_ACCESS_KEY_ID": "a"}, ServiceAccountRole),
    ],
)
def test_the_choice(address: str, environ: dict[str, str], kind: type) -> None:
    assert type(credential_source(oss_address(urlsplit(address)), environ)) is kind


@pytest.mark.parametrize(
    ("address", "environ"),
    [
        # Never an instance's role unasked.
        (PLAIN, {}),
        (PLAIN, {"ALIBABA_CLOUD_ECS_METADATA": "role"}),
        (PLAIN, {"OSS_ACCESS_KEY_ID": "a"}),
        (f"{PLAIN}&credentials=environment", RRSA),
        (PLAIN, {"ALIBABA_CLOUD_OIDC_TOKEN_FILE": "/token"}),
        (f"{PLAIN}&credentials=oidc", {}),
        (f"{PLAIN}&credentials=ecs", {"ALIBABA_CLOUD_ECS_METADATA": "../role"}),
    ],
)
def test_no_choice(address: str, environ: dict[str, str]) -> None:
    with pytest.raises(StoreRefused, match="expected"):
        credential_source(oss_address(urlsplit(address)), environ)


def test_a_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text("[default]\ntype = access_key\naccess_key_id = a\naccess_key_secret = b%c\n")
    source = FileCredentials(path)
    assert fetched(source, 100.0) == Credentials("a", "b%c", renew=100.0 + FILE_EVERY)
    path.write_text(
        "[default]\ntype = sts\naccess_key_id = d\naccess_key_secret = e\nsecurity_token = f\n"
    )
    assert fetched(source, 200.0) == Credentials("d", "e", "f", renew=200.0 + FILE_EVERY)
    assert source.renews


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hunter2",
        "[default]\nhunter2",
        "[other]\naccess_key_id = a\naccess_key_secret = hunter2\n",
        "[default]\naccess_key_secret = hunter2\n",
        "[default]\ntype = ram_role_arn\naccess_key_id = a\naccess_key_secret = hunter2\n",
        "[default]\ntype = sts\naccess_key_id = a\naccess_key_secret = hunter2\n",
        "[default]\naccess_key_id = a\naccess_key_id = b\naccess_key_secret = hunter2\n",
    ],
)
def test_a_file_that_has_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credentials"
    path.write_text(text)
    with pytest.raises(StoreRefused, match=r"\[default\]") as caught:
        fetched(FileCredentials(path))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="No such file"):
        fetched(FileCredentials(tmp_path / "absent"))


async def asked(source: CredentialSource) -> Credentials:
    return await asyncio.to_thread(source.fetch, Call(), time.time())


@pytest.mark.parametrize("role", ["", ROLE])
async def test_the_role_of_an_instance(role: str) -> None:
    identities = Identities({})
    async with serving(identities.metadata()) as address:
        found = await asked(InstanceRole(role, address))
    given = identities.given[0]
    assert (found.key_id, found.secret, found.token) == (given.key_id, given.secret, given.token)
    assert found.ends == given.ends
    assert found.renew == given.ends - EARLY


async def test_short_lives_are_renewed_in_their_middle() -> None:
    async with serving(Identities({}, life=100.0).metadata()) as address:
        began = time.time()
        found = await asked(InstanceRole(ROLE, address))
    assert began + 45 < found.renew < found.ends - 45


@pytest.mark.parametrize(
    ("identities", "role", "kind"),
    [
        (Identities({}, status=404), ROLE, StoreRefused),
        (Identities({}, status=503), ROLE, StoreUnavailable),
        (Identities({}), "other-role", StoreRefused),
        (Identities({}, life=-10.0), ROLE, StoreUnavailable),
    ],
)
async def test_an_instance_that_gives_none(
    identities: Identities, role: str, kind: type[BuildsvcError]
) -> None:
    async with serving(identities.metadata()) as address:
        with pytest.raises(kind, match="metadata server"):
            await asked(InstanceRole(role, address))


def service_account(token_file: Path, address: str) -> ServiceAccountRole:
    return ServiceAccountRole(ROLE_ARN, PROVIDER_ARN, token_file, "buildsvc", server=address)


async def test_the_role_of_a_service_account(tmp_path: Path) -> None:
    identities = Identities({})
    token_file = tmp_path / "token"
    async with serving(identities.sts()) as address:
        source = service_account(token_file, address)
        # The kubelet exchanges it.
        for token in ("first.token", "second.token"):
            identities.token = token
            await asyncio.to_thread(token_file.write_text, f"{token}\n")
            found = await asked(source)
            assert found.secret == identities.given[-1].secret
    assert len(identities.given) == 2


@pytest.mark.parametrize(
    ("status", "token", "kind", "found"),
    [
        (200, "another.token", StoreRefused, "AuthenticationFail.OIDCToken.Invalid"),
        (200, "", StoreRefused, "no OIDC token"),
        (200, "x" * 20_001, StoreRefused, "no OIDC token"),
        (500, "right.token", StoreUnavailable, "HTTP 500 InternalError"),
    ],
)
async def test_a_role_that_is_not_given(
    tmp_path: Path, status: int, token: str, kind: type[BuildsvcError], found: str
) -> None:
    token_file = tmp_path / "token"
    await asyncio.to_thread(token_file.write_text, token)
    async with serving(Identities({}, status=status, token="right.token").sts()) as address:
        with pytest.raises(kind, match=found) as caught:
            await asked(service_account(token_file, address))
    # STS repeats it in what it says here.
    assert not token or token not in str(caught.value)


def test_where_sts_is() -> None:
    for internal, host in ((False, "sts.cn-hangzhou"), (True, "sts-vpc.cn-hangzhou")):
        role = ServiceAccountRole.of(RRSA, "cn-hangzhou", internal=internal)
        assert role._origin.address == f"https://{host}.aliyuncs.com"


class Scripted:
    """Gives numbered credentials that hold for 1000 s, or what is in ``errors`` first."""

    renews = True

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0
        self.go = threading.Event()
        self.go.set()
        self.asked = threading.Semaphore(0)

    def fetch(self, call: Call, now: float) -> Credentials:
        del call
        self.count += 1
        number = self.count
        self.asked.release()
        self.go.wait()
        if self.errors:
            raise self.errors.pop(0)
        return Credentials(f"{number}", "secret", "token", renew=now + 400, ends=now + 1000)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def renewed(source: CredentialSource, clock: Callable[[], float]) -> RenewedCredentials:
    return RenewedCredentials(source, clock=clock)


async def settled(credentials: RenewedCredentials) -> None:
    """Wait for the end of the renewal under way."""
    if credentials._renewal is not None:
        await asyncio.wait([credentials._renewal])


async def test_all_wait_for_one_request() -> None:
    source = Scripted()
    credentials = renewed(source, Clock())
    source.go.clear()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(credentials.current()) for _ in range(20)]
        await asyncio.to_thread(source.asked.acquire)
        source.go.set()
    assert {task.result().key_id for task in tasks} == {"1"}
    assert source.count == 1
    assert (await credentials.current()).key_id == "1"
    assert source.count == 1
    await credentials.close()


async def test_old_ones_are_used_while_new_ones_are_asked_for() -> None:
    source, clock = Scripted(), Clock()
    credentials = renewed(source, clock)
    await credentials.current()
    clock.now += 401
    source.go.clear()
    for _ in range(5):
        assert (await credentials.current()).key_id == "1"
    await asyncio.to_thread(source.asked.acquire)
    await asyncio.to_thread(source.asked.acquire)
    source.go.set()
    await settled(credentials)
    assert (await credentials.current()).key_id == "2"
    assert source.count == 2
    await credentials.close()


async def test_ones_that_end_soon_are_waited_for() -> None:
    source, clock = Scripted(), Clock()
    credentials = renewed(source, clock)
    await credentials.current()
    clock.now += 950
    assert (await credentials.current()).key_id == "2"
    await credentials.close()


async def test_a_renewal_that_fails_is_tried_again_before_the_end() -> None:
    source, clock = Scripted(), Clock()
    credentials = renewed(source, clock)
    await credentials.current()
    source.errors.append(StoreUnavailable("not now"))
    clock.now += 401
    assert (await credentials.current()).key_id == "1"
    await settled(credentials)
    assert source.errors == []
    # Not with each request.
    assert (await credentials.current()).key_id == "1"
    await settled(credentials)
    assert source.count == 2
    clock.now += PAUSE
    await credentials.current()
    await settled(credentials)
    assert (await credentials.current()).key_id == "3"
    await credentials.close()


async def test_the_first_failure_is_the_callers() -> None:
    source = Scripted(StoreUnavailable("not now"))
    credentials = renewed(source, Clock())
    with pytest.raises(StoreUnavailable, match="not now"):
        await credentials.current()
    assert (await credentials.current()).key_id == "2"
    await credentials.close()


async def test_a_caller_that_is_cancelled_does_not_end_it_for_others() -> None:
    source = Scripted()
    credentials = renewed(source, Clock())
    source.go.clear()
    first = asyncio.create_task(credentials.current())
    second = asyncio.create_task(credentials.current())
    await asyncio.to_thread(source.asked.acquire)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.go.set()
    assert (await second).key_id == "1"
    assert source.count == 1
    await credentials.close()


async def test_closing_ends_a_renewal() -> None:
    source = Scripted()
    credentials = renewed(source, Clock())
    source.go.clear()
    waiting = asyncio.create_task(credentials.current())
    await asyncio.to_thread(source.asked.acquire)
    cancelled = asyncio.create_task(credentials.current())
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await credentials.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await waiting
    source.go.set()


class Rotated:
    """Another key each time, of which OSS knows only the last."""

    def __init__(self, *keys: Key, renews: bool = True) -> None:
        self._keys = list(keys)
        self.renews = renews

    def fetch(self, call: Call, now: float) -> Credentials:
        key = self._keys.pop(0) if len(self._keys) > 1 else self._keys[0]
        return Given(key).fetch(call, now)


async def test_credentials_that_oss_does_not_know_any_more_are_asked_for_anew() -> None:
    server = oss_server()
    new = Key("LTAI-new", "another secret")
    ended = Key("STS.1", "a third secret", "token", ends=0.0)
    server.keys = {key.key_id: key for key in (new, ended)}
    async with oss_store(server, Rotated(Key("LTAI-old", "secret"), ended, new)) as store:
        for code in ("InvalidAccessKeyId", "SecurityTokenExpired"):
            with pytest.raises(StoreUnavailable, match=f"credentials do not hold.*{code}"):
                await store.put("a", b"data")
        await store.put("a", b"data")
    fixed = Rotated(Key("LTAI-old", "secret"), renews=False)
    async with oss_store(server, fixed) as store:
        with pytest.raises(StoreRefused, match="InvalidAccessKeyId"):
            await store.put("a", b"data")


async def test_the_store_works_with_a_role_and_its_renewal(tmp_path: Path) -> None:
    server = oss_server()
    identities = Identities(server.keys, life=3600.0)
    token_file = tmp_path / "token"
    await asyncio.to_thread(token_file.write_text, identities.token)
    async with (
        serving(identities.sts()) as address,
        oss_store(server, service_account(token_file, address)) as store,
    ):
        await store.put("a", b"data")
        assert await store.get("a") == b"data"
        assert len(identities.given) == 1
        old = identities.given[0]
        server.keys[old.key_id] = replace(old, ends=0.0)
        with pytest.raises(StoreUnavailable, match="SecurityTokenExpired"):
            await store.get("a")
        assert await store.get("a") == b"data"
        assert len(identities.given) == 2
