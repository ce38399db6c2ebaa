"""Where RUN steps share the pod's network, only certificates let a client in."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.commands import command
from tests.integration.contexts import BASE, context
from tests.integration.sidecars import Pod, pod

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


#: Ends of buildctl's flags, and what the endpoint file calls the same.
CLIENT_FILES = {"cacert": "ca", "cert": "cert", "key": "key"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(shared: Path) -> AsyncIterator[Pod]:
    """A pod on the host's network: mutual TLS without being asked for it."""
    flags = ("--network=host", f"--tls-client-dir={shared / 'client'}")
    async with pod(shared / "one", *flags) as one:
        state = await one.status()
        assert state["endpoint"]["tls"]
        assert not state["endpoint"]["isolated"]
        yield one


@pytest.fixture
def place(directory: Path) -> Path:
    return context(directory / "context", BASE + "RUN echo made > /made\n")


async def test_a_client_with_the_certificates_builds(
    guarded: Pod, shared: Path, place: Path
) -> None:
    client = ("--addr", guarded.endpoint()["url"], "--tlsdir", str(shared / "client"))
    # Who starts it by hand is told where they are.
    assert f"tlsdir={shared / 'client'}" in guarded.log
    assert (await guarded.build(place, client=client)).code == 0


async def test_the_endpoint_file_names_the_certificates(guarded: Pod, place: Path) -> None:
    said = guarded.endpoint()
    assert said["tls"]
    client = [f"--tls{what}={said[name]}" for what, name in CLIENT_FILES.items()]
    client.append(f"--addr={said['url']}")
    assert (await guarded.build(place, client=client)).code == 0


async def test_a_plain_client_is_refused(guarded: Pod) -> None:
    ended = await command("buildctl", "--addr", guarded.endpoint()["url"], "debug", "workers")
    assert ended.code != 0


async def test_a_client_without_a_certificate_is_refused(guarded: Pod, shared: Path) -> None:
    ca = str(shared / "client" / "ca.pem")
    address = guarded.endpoint()["url"]
    ended = await command("buildctl", "--addr", address, "--tlscacert", ca, "debug", "workers")
    assert ended.code != 0


async def test_a_client_with_another_authoritys_certificate_is_refused(
    guarded: Pod, shared: Path, directory: Path
) -> None:
    async with pod(directory / "other", "--network=host") as other:
        mine, theirs = shared / "client", other.root / "tls" / "client"
        files = (str(mine / "ca.pem"), str(theirs / "cert.pem"), str(theirs / "key.pem"))
        names = ("--tlscacert", "--tlscert", "--tlskey")
        flags = [word for pair in zip(names, files, strict=True) for word in pair]
        address = guarded.endpoint()["url"]
        ended = await command("buildctl", "--addr", address, *flags, "debug", "workers")
        assert ended.code != 0
        # And neither does the client take the other server for this one.
        right = ["--tlsdir", str(mine)]
        ended = await command(
            "buildctl", "--addr", other.endpoint()["url"], *right, "debug", "workers"
        )
        assert ended.code != 0
        assert "certificate" in ended.err


async def test_the_keys_are_private(guarded: Pod, shared: Path) -> None:
    for key in (shared / "client" / "key.pem", *guarded.root.glob("tls/server/*key*")):
        assert stat.S_IMODE(key.stat().st_mode) & 0o077 == 0
    for directory in (shared / "client", guarded.root / "tls" / "server"):
        assert stat.S_IMODE(directory.stat().st_mode) & 0o027 == 0


async def test_a_step_reaches_the_endpoint_and_is_refused(
    guarded: Pod, shared: Path, directory: Path
) -> None:
    port = guarded.endpoint()["address"].rpartition(":")[2]
    place = context(
        directory / "context",
        BASE + f"RUN nc -w 2 127.0.0.1 {port} </dev/null && echo reached; "
        f"cat {shared}/client/key.pem {guarded.root}/tls/server/* && echo stolen; true\n",
    )
    client = ("--addr", guarded.endpoint()["url"], "--tlsdir", str(shared / "client"))
    said = (await guarded.build(place, client=client)).output
    assert "reached" in said
    assert "stolen" not in said


async def test_tls_in_a_network_of_their_own(directory: Path, place: Path) -> None:
    async with pod(directory / "one", "--network=slirp4netns", "--tls=on") as one:
        assert (await one.client("debug", "workers")).code != 0
        client = ("--addr", one.endpoint()["url"], "--tlsdir", str(one.root / "tls" / "client"))
        assert (await one.build(place, client=client)).code == 0


async def test_plain_tcp_when_every_build_is_trusted(directory: Path, place: Path) -> None:
    flags = ("--network=host", "--tls=off", "--allow-reachable-endpoint=on")
    async with pod(directory / "one", *flags) as one:
        assert not (await one.status())["endpoint"]["tls"]
        assert (await one.build(place)).code == 0
