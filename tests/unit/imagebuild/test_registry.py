"""The registry's client on a server that asks for credentials in all its ways, and on bad ones."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from buildsvc.errors import ConfigError
from buildsvc.imagebuild.dockerconfig import Credential
from buildsvc.imagebuild.errors import RegistryRefused, RegistryUnavailable
from buildsvc.imagebuild.registry import HttpRegistry, Registry
from sidecar.certificates import make_certificates
from tests.unit.imagebuild.fakes import FakeRegistry, unavailable

BODY = b'{"schemaVersion": 2}'
DIGEST = f"sha256:{hashlib.sha256(BODY).hexdigest()}"
ME = Credential("me", "hunter2")
BASIC = "Basic " + base64.b64encode(b"me:hunter2").decode()


@dataclass
class Server:
    """A registry with one image; ``auth`` says how it asks for credentials."""

    auth: str = ""
    status: int = 200
    header: bool = True
    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: list[dict[str, str]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return self.url.partition("://")[2]

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        assert "application/vnd.oci.image.index.v1+json" in request.headers["Accept"]
        given = request.headers.get("Authorization", "")
        if self.auth == "basic" and given != BASIC:
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})
        if self.auth == "bearer" and given != "Bearer a-token":
            challenge = f'Bearer realm="{self.url}/token",service="s",scope="repository:x:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        if self.auth == "strange":
            return web.Response(status=401, headers={"WWW-Authenticate": "Digest x"})
        if self.status != 200:
            return web.Response(status=self.status)
        if request.match_info["reference"] not in ("1", DIGEST):
            return web.Response(status=404)
        headers = {"Docker-Content-Digest": DIGEST} if self.header else {}
        return web.Response(body=BODY, headers=headers)

    async def token(self, request: web.Request) -> web.StreamResponse:
        asked = dict(request.query) | {key: str(v) for key, v in (await request.post()).items()}
        self.tokens.append(asked | {"authorization": request.headers.get("Authorization", "")})
        if asked.get("refresh_token") not in (None, "an-identity"):
            return web.Response(status=401)
        if "refresh_token" not in asked and request.headers.get("Authorization") != BASIC:
            return web.Response(status=401)
        name = "access_token" if "refresh_token" in asked else "token"
        return web.json_response({name: "a-token"})


@asynccontextmanager
async def served(server: Server, tls: Path | None = None) -> AsyncIterator[Server]:
    application = web.Application()
    application.router.add_get("/v2/team/app/manifests/{reference}", server.manifest)
    application.router.add_route("*", "/token", server.token)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    context = None
    if tls is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def client(
    server: Server, given: Credential = ME, *, authority: Path | None = None, insecure: bool = True
) -> HttpRegistry:
    return HttpRegistry(server.host, given, authority=authority, insecure=insecure)


Fails = Callable[[], Exception]


async def check(registry: Registry) -> None:
    """The contract."""
    assert await registry.digest("team/app", "1") == DIGEST
    assert await registry.digest("team/app", DIGEST) == DIGEST
    assert await registry.digest("team/app", "2") is None


@pytest.mark.parametrize("auth", ["", "basic", "bearer"])
@pytest.mark.parametrize("header", [True, False])
async def test_the_contract(auth: str, header: bool) -> None:  # noqa: FBT001
    async with served(Server(auth, header=header)) as server:
        await check(client(server))
        assert ({method for method, _ in server.asked} == {"HEAD"}) == header


async def test_the_fake_keeps_the_contract() -> None:
    await check(FakeRegistry({"team/app:1": DIGEST, f"team/app:{DIGEST}": DIGEST}))


async def test_a_token_is_asked_for_once_and_for_pulling_only() -> None:
    async with served(Server("bearer")) as server:
        registry = client(server)
        await registry.digest("team/app", "1")
        await registry.digest("team/app", "2")
        (asked,) = server.tokens
    assert asked == {"service": "s", "scope": "repository:team/app:pull", "authorization": BASIC}


async def test_an_identity_token() -> None:
    async with served(Server("bearer")) as server:
        assert await client(server, Credential(token="an-identity")).digest("team/app", "1")
        assert server.tokens[0]["grant_type"] == "refresh_token"


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("given", [Credential(), Credential("me", "wrong"), Credential(token="x")])
async def test_wrong_credentials(auth: str, given: Credential) -> None:
    async with served(Server(auth)) as server:
        with pytest.raises(RegistryRefused) as error:
            await client(server, given).digest("team/app", "1")
    assert "wrong" not in str(error.value)
    assert error.value.exit_code == 77


async def test_no_right() -> None:
    async with served(Server(status=403)) as server:
        with pytest.raises(RegistryRefused, match="HTTP 403 for me"):
            await client(server).digest("team/app", "1")


@pytest.mark.parametrize(("auth", "status"), [("", 500), ("", 429), ("strange", 200)])
async def test_answers_that_say_nothing(auth: str, status: int) -> None:
    async with served(Server(auth, status)) as server:
        with pytest.raises(RegistryUnavailable) as error:
            await client(server).digest("team/app", "1")
    assert error.value.exit_code == 75


async def test_nobody_there() -> None:
    async with served(Server()) as server:
        pass
    with pytest.raises(RegistryUnavailable, match="cannot be reached"):
        await client(server).digest("team/app", "1")
    with pytest.raises(RegistryUnavailable):
        raise unavailable()


async def test_certificates(tmp_path: Path) -> None:
    await asyncio.to_thread(make_certificates, tmp_path / "server", tmp_path / "client")
    async with served(Server(), tmp_path / "server") as server:
        authority = tmp_path / "server" / "ca.pem"
        await check(client(server, authority=authority, insecure=False))
        await check(client(server))
        with pytest.raises(ConfigError, match="set --registry-ca; the sidecar needs"):
            await client(server, insecure=False).digest("team/app", "1")


async def test_credentials_are_not_sent_to_where_a_registry_points() -> None:
    seen: list[str | None] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=BODY, headers={"Docker-Content-Digest": DIGEST})

    application = web.Application()
    application.router.add_get("/{path:.*}", elsewhere)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = f"http://127.0.0.1:{runner.addresses[0][1]}/blob"

    class Pointing(Server):
        async def manifest(self, request: web.Request) -> web.StreamResponse:
            answer = await super().manifest(request)
            if answer.status == 200:
                raise web.HTTPTemporaryRedirect(target)
            return answer

    async with served(Pointing("basic")) as server:
        assert await client(server).digest("team/app", "1") == DIGEST
    await runner.cleanup()
    assert seen == [None]
