"""An OSS of the test's own, at the address that it would have."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import urlsplit

from buildsvc.store.oss import OssStore
from buildsvc.store.ossaddress import oss_address
from buildsvc.store.osscredentials import Credentials
from buildsvc.store.ossrenewal import RenewedCredentials
from buildsvc.store.timeouts import DEFAULT_TIMEOUTS, HttpTimeouts
from tests.ossserver.bucket import Bucket
from tests.ossserver.server import Key, OssServer
from tests.unit.store.serving import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from buildsvc.store.httpconnection import Call
    from buildsvc.store.osscredentials import CredentialSource

HOST = "oss.test"
KEY = Key("LTAI-test", "the secret of the test", "a security token / with + signs")


class Given:
    """Credentials that do not change."""

    renews = False

    def __init__(self, key: Key = KEY) -> None:
        self._key = key

    def fetch(self, call: Call, now: float) -> Credentials:
        del call, now
        return Credentials(self._key.key_id, self._key.secret, self._key.token)


def oss_server() -> OssServer:
    """A service with an empty bucket."""
    return OssServer(Bucket("test-bucket", "cn-test"), {KEY.key_id: KEY})


@asynccontextmanager
async def oss_endpoint(server: OssServer) -> AsyncIterator[str]:
    """Where the service answers. Buckets have hosts of their own, so names are resolved here."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *args: Any, **kwargs: Any) -> Any:
        named = isinstance(host, str) and host.endswith(HOST)
        return resolve("127.0.0.1" if named else host, *args, **kwargs)

    async with serving(server.application()) as address:
        with mock.patch("socket.getaddrinfo", resolved):
            yield f"http://{HOST}:{address.rpartition(':')[2]}"


def store_at(
    endpoint: str,
    source: CredentialSource | None = None,
    timeouts: HttpTimeouts = DEFAULT_TIMEOUTS,
    address: str = "oss://test-bucket/ci/cache?region=cn-test",
    connections: int = 16,
) -> OssStore:
    """A store of that service."""
    return OssStore(
        oss_address(urlsplit(f"{address}&endpoint={endpoint}")),
        RenewedCredentials(source or Given()),
        timeouts,
        connections,
    )


@asynccontextmanager
async def oss_store(
    server: OssServer,
    source: CredentialSource | None = None,
    timeouts: HttpTimeouts = DEFAULT_TIMEOUTS,
) -> AsyncIterator[OssStore]:
    """A store of a service that runs meanwhile."""
    async with oss_endpoint(server) as endpoint:
        store = store_at(endpoint, source, timeouts)
        try:
            yield store
        finally:
            await store.close()
