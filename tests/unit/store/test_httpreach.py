"""The way to a server: its address, its name, and TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from buildsvc.errors import ConfigError, StoreRefused, StoreUnavailable
from buildsvc.store import httpconnection
from buildsvc.store.http import HttpStore
from buildsvc.store.local import LocalStore
from perf.objectserver import ObjectServer
from sidecar.certificates import make_certificates
from tests.unit.store.serving import serving
from tests.unit.store.talking import DATA, LONG, request, talking

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.tls import Certificates


async def test_a_slow_resolver_takes_no_time_from_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    resolve = socket.getaddrinfo

    def slow(host: str, port: int, *, type: int) -> object:  # noqa: A002  the callee's name
        nonlocal now
        now += LONG.connect
        return resolve(host, port, type=type)

    async def talk(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(DATA)

    limits = []
    wait = httpconnection._wait

    def waiting(sock: socket.socket, begun: int, timeout: float) -> None:
        limits.append(timeout)
        wait(sock, begun, timeout)

    monkeypatch.setattr(httpconnection, "_wait", waiting)
    # Its clock alone, not that of the event loop.
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(httpconnection, "time", clock)
    async with talking(talk) as store:
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        assert await store.get("a") == b"data"
    assert (now, limits) == (LONG.connect, [LONG.connect])


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path / "server", tmp_path / "client")


async def test_tls(made: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.cert, made.key)
    data = os.urandom(3 << 20)
    source = tmp_path / "source"
    await asyncio.to_thread(source.write_bytes, data)
    server = ObjectServer(LocalStore(tmp_path / "served"))
    async with serving(server.application(), context) as address:
        monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))
        store = HttpStore(address)
        await store.put_file("a", source)
        with (tmp_path / "target").open("w+b") as target:
            await store.get_range_to("a", 1, len(data) - 1, target.fileno())
            assert await asyncio.to_thread(target.read) == data[1:]
        await store.close()

        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "absent"))
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "absent"))
        distrustful = HttpStore(address)
        with pytest.raises(StoreRefused, match="install the authority"):
            await distrustful.get("a")
        await distrustful.close()


async def test_a_server_without_tls_is_no_https_server() -> None:
    async def talk(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with talking(talk) as plain:
        store = HttpStore(plain._origin.address.replace("http:", "https:"), LONG)
        with pytest.raises(StoreRefused, match="no trusted connection"):
            await store.get("a")
        await store.close()


@pytest.mark.parametrize("address", ["http://host:port", "http://host:65536/a", "ftp://host"])
def test_addresses_of_nothing(address: str) -> None:
    with pytest.raises(ConfigError, match="not the address of an object server"):
        HttpStore(address)


async def test_a_host_name_that_cannot_be() -> None:
    store = HttpStore("http://" + "x" * 64 + ".invalid")
    with pytest.raises(StoreUnavailable):
        await store.get("a")
    await store.close()
