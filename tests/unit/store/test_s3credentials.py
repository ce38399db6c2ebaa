"""Where the credentials of an S3 store come from."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from buildsvc.errors import StoreRefused
from buildsvc.store.open import open_store
from buildsvc.store.s3 import S3Store
from buildsvc.store.s3address import S3Address
from buildsvc.store.s3credentials import SharedFile, find_credentials
from sidecar.certificates import make_certificates
from tests.minio import KEY_ID, SECRET, Minio
from tests.unit.store.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.Response]]

pytestmark = pytest.mark.usefixtures("s3_environment")

PROFILES = f"""
[default]
aws_access_key_id = other
aws_secret_access_key = other

[ci]
aws_access_key_id = {KEY_ID}
aws_secret_access_key = {SECRET}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.write_text(PROFILES)
    return path


@pytest.mark.parametrize(
    "environ",
    [
        {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        {"AWS_WEB_IDENTITY_TOKEN_FILE": "/token", "AWS_ROLE_ARN": "arn"},
    ],
)
def test_the_environment_wins_over_the_file(environ: Mapping[str, str], file: Path) -> None:
    assert find_credentials({**environ, "AWS_SHARED_CREDENTIALS_FILE": str(file)}) is None


def test_the_file_wins_over_the_container(file: Path) -> None:
    for container in (
        {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"},
        {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://x",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/x",
        },
    ):
        assert find_credentials({**container, "HOME": "/nonexistent"}) is None
        found = find_credentials({**container, "AWS_SHARED_CREDENTIALS_FILE": str(file)})
        assert isinstance(found, SharedFile)


def test_the_file_below_home(tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text(PROFILES)
    found = find_credentials({"HOME": str(tmp_path)})
    assert isinstance(found, SharedFile)
    assert found()["access_key_id"] == "other"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"AWS_ACCESS_KEY_ID": "a"},
        {"AWS_ACCESS_KEY_ID": "", "AWS_ROLE_ARN": "b"},
        # With it alone the client would ask for the machine's own role.
        {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1"},
    ],
)
async def test_no_source(environ: Mapping[str, str]) -> None:
    store = S3Store(S3Address("bucket"), environ=environ)
    with pytest.raises(StoreRefused, match=r"no credentials.*AWS_WEB_IDENTITY_TOKEN_FILE"):
        await store.get("a")
    await store.close()


def test_a_profile(file: Path) -> None:
    before = datetime.now(UTC)
    found = SharedFile(file, "ci")()
    assert (found["access_key_id"], found["secret_access_key"]) == (KEY_ID, SECRET)
    assert found.get("token") is None
    assert found["expires_at"] is not None
    assert timedelta(minutes=10) < found["expires_at"] - before < timedelta(minutes=20)
    file.write_text(PROFILES + "aws_session_token = 100%\n")
    assert SharedFile(file, "ci")()["token"] == "100%"


@pytest.mark.parametrize("content", [None, "hunter2", "[ci]\naws_access_key_id = hunter2", "[ci"])
def test_a_file_that_is_no_use_is_not_repeated(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "credentials"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StoreRefused, match=r"expected: \[ci\]") as caught:
        SharedFile(path, "ci")()
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_store_with_a_file(
    s3_server: Minio, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    store = open_store(s3_server.address("credentials"))
    with pytest.raises(StoreRefused, match="InvalidAccessKeyId"):
        await store.get("a")
    await store.close()
    monkeypatch.setenv("AWS_PROFILE", "ci")
    store = open_store(s3_server.address("credentials"))
    await store.put("a", b"data")
    assert await store.get("a") == b"data"
    await store.close()
    monkeypatch.setenv("AWS_PROFILE", "absent")
    store = open_store(s3_server.address("credentials"))
    with pytest.raises(StoreRefused, match=r"no credentials.*expected: \[absent\]"):
        await store.get("a")
    await store.close()


@contextlib.asynccontextmanager
async def token_service(
    handler: Handler, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[S3Store]:
    """A store whose server answers with ``handler``, which is also the token service."""
    certificates = await asyncio.to_thread(
        make_certificates, directory / "server", directory / "client"
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.cert, certificates.key)
    token = directory / "token"
    token.write_text("the-token")
    app = web.Application()
    app.router.add_route("*", "/{name:.*}", handler)
    # The client does not send a token without TLS.
    async with serving(app, context) as endpoint:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificates.ca))
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/builds")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", endpoint)
        store = S3Store(S3Address("bucket", endpoint=endpoint))
        yield store
        await store.close()


async def test_a_web_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token's file is exchanged for credentials, which then sign."""
    asked: list[tuple[object, object]] = []
    signed: list[tuple[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        form = {**request.query, **await request.post()}
        if form.get("Action") == "AssumeRoleWithWebIdentity":
            asked.append((form["WebIdentityToken"], form["RoleArn"]))
            until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
            return web.Response(
                text="<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult>"
                "<Credentials><AccessKeyId>assumed</AccessKeyId><SecretAccessKey>s</SecretAccessKey>"
                f"<SessionToken>session</SessionToken><Expiration>{until}</Expiration></Credentials>"
                "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            )
        key_id = request.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
        signed.append((key_id, request.headers["X-Amz-Security-Token"]))
        return web.Response(body=b"data", headers={"ETag": '"x"'})

    async with token_service(handler, tmp_path, monkeypatch) as store:
        assert await store.get("a") == b"data"
        assert await store.get("b") == b"data"
    assert asked == [("the-token", "arn:aws:iam::1:role/builds")]
    assert signed == [("assumed", "session")] * 2


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_token_service_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with token_service(handler, tmp_path, monkeypatch) as store:
        with pytest.raises(StoreRefused) as caught:
            await store.get("a")
    assert "the-token" not in f"{caught.value} {caught.value.__cause__}"


async def test_a_containers_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("the-token")
    statuses = iter([404, 200])
    signed: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        if request.path != "/credentials":
            signed.append(request.headers["X-Amz-Security-Token"])
            return web.Response(body=b"data", headers={"ETag": '"x"'})
        assert request.headers["Authorization"] == "the-token"
        until = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
        found = {"AccessKeyId": "a", "SecretAccessKey": "s", "Token": "t", "Expiration": until}
        return web.json_response(found, status=next(statuses))

    app = web.Application()
    app.router.add_route("*", "/{name:.*}", handler)
    async with serving(app) as endpoint:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint}/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
        store = S3Store(S3Address("bucket", endpoint=endpoint))
        # No object is missing.
        with pytest.raises(StoreRefused, match="HTTP 404"):
            await store.get("a")
        assert await store.get("a") == b"data"
        await store.close()
    assert signed == ["t"]


async def test_half_a_key_beside_a_web_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn")
    store = S3Store(S3Address("bucket"))
    with pytest.raises(StoreRefused, match="do not go together"):
        await store.get("a")
    await store.close()
