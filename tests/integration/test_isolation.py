"""What a RUN step can and cannot reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.contexts import BASE, context
from tests.integration.sidecars import Pod, pod

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

MARKER = "marker-of-the-stores-credential-5521"
METADATA = ("169.254.169.254", "100.100.100.200", "169.254.1.1")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def isolated(shared: Path) -> AsyncIterator[Pod]:
    """A pod whose RUN steps have a network of their own; its environment holds a secret."""
    flags = (
        f"--store={shared / 'store'}",
        "--network=slirp4netns",
        "--deny-cidr=198.18.213.77/32",
        "--http-listen=127.0.0.1:0",
    )
    async with pod(shared / "one", *flags, env={"STORE_SECRET_KEY": MARKER}) as one:
        state = await one.status()
        assert state["endpoint"]["isolated"]
        assert not state["endpoint"]["tls"]
        yield one


class Server:
    """An HTTP server that notes who comes."""

    def __init__(self) -> None:
        self.visits = 0

    async def start(self, address: str) -> int:
        self._server = await asyncio.start_server(self._visit, address, 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _visit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n")
        await writer.drain()
        writer.close()

    def close(self) -> None:
        self._server.close()


async def step(one: Pod, place: Path, command: str) -> str:
    """Run a shell command as a RUN step and return what it wrote."""
    context(place, BASE + f"RUN --network=default {command}\n")
    return (await one.build(place, "--no-cache")).output


async def test_steps_reach_the_network_but_not_the_endpoint(
    isolated: Pod, directory: Path, reachable_address: str
) -> None:
    outside, loopback = Server(), Server()
    port = await outside.start(reachable_address)
    hidden = await loopback.start("127.0.0.1")
    endpoint = isolated.endpoint()["address"].rpartition(":")[2]
    pages = (await isolated.status())["http"].rpartition(":")[2]
    said = await step(
        isolated,
        directory / "context",
        f"wget -q -O - http://{reachable_address}:{port}/; "
        + "".join(
            f"nc -w 2 {host} {number} </dev/null && echo reached-{host}-{number}; "
            for host in ("127.0.0.1", "10.0.2.2", "localhost")
            for number in (endpoint, pages, hidden)
        )
        + "true",
    )
    assert "hello" in said
    assert outside.visits == 1
    assert "reached" not in said
    assert loopback.visits == 0
    outside.close()
    loopback.close()


async def test_steps_do_not_reach_metadata_services(
    isolated: Pod, directory: Path, reachable_address: str
) -> None:
    """Their addresses have no route; what is denied by a flag has none either."""
    said = await step(
        isolated,
        directory / "context",
        "".join(
            f"echo {address}: $(ip route get {address} 2>&1); "
            f"timeout 3 wget -q -O - http://{address}/ && echo reached-{address}; "
            for address in (*METADATA, "198.18.213.77")
        )
        + f"echo open: $(ip route get {reachable_address} 2>&1); "
        + "ip -6 route get fd00:ec2::254 2>&1; true",
    )
    for address in (*METADATA, "198.18.213.77"):
        assert f"{address}: " in said
    lines = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    for address in (*METADATA, "198.18.213.77"):
        assert "No route to host" in lines[address]
    assert " via " in lines["open"] or " dev " in lines["open"]
    assert "reached" not in said
    assert " dev tap0" not in said.rpartition("open: ")[2].partition("\n")[2]


async def test_steps_do_not_reach_a_denied_server(
    isolated: Pod, directory: Path, reachable_address: str
) -> None:
    """A server as a metadata service is one: the same request arrives where it is not denied."""
    server = Server()
    port = await server.start(reachable_address)
    request = f"timeout 3 wget -q -O - http://{reachable_address}:{port}/latest/meta-data; true"
    deny = f"--deny-cidr={reachable_address}/32"
    async with pod(directory / "one", "--network=slirp4netns", deny) as denied:
        assert "hello" not in await step(denied, directory / "context", request)
        assert server.visits == 0
    assert "hello" in await step(isolated, directory / "context", request)
    assert server.visits == 1
    server.close()


async def test_a_step_finds_no_secret_of_the_sidecar(isolated: Pod, directory: Path) -> None:
    """It sees every process of the pod in /proc; no environment nor command line has the secret."""
    assert isolated.process is not None
    pid = isolated.process.pid
    environ = Path(f"/proc/{pid}/environ").read_bytes()
    assert MARKER.encode() in environ
    said = await step(
        isolated,
        directory / "context",
        f"test -d /proc/{pid} && echo sees-sidecar; "
        f"cat /proc/{pid}/environ >/dev/null 2>&1 && echo read-environ; "
        f"ls /proc/{pid}/root/ >/dev/null 2>&1 && echo read-root; "
        f"head -c 1 /proc/{pid}/mem 2>&1 | grep -q ermission || echo no-denial; "
        # In two pieces, so that this very command line is no match.
        f"a={MARKER[:10]}; b={MARKER[10:]}; n=0; "
        "for p in /proc/[0-9]*; do n=$((n+1)); "
        "cat $p/environ $p/cmdline 2>/dev/null | grep -q $a$b && echo found-in-$p; done; "
        "echo looked-at $n; true",
    )
    assert "sees-sidecar" in said
    assert "looked-at" in said
    assert "read-environ" not in said
    assert "read-root" not in said
    assert "found-in" not in said


async def test_nothing_inside_the_namespace_knows_the_secret(isolated: Pod) -> None:
    inside = isolated.children("")
    assert len(inside) >= 4
    for pid in inside:
        if "rootlesskit" in (line := _cmdline(pid)):
            assert MARKER not in line
        try:
            environ = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        assert MARKER.encode() not in environ


def _cmdline(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


async def test_a_step_cannot_use_the_sockets_of_the_pod(isolated: Pod, directory: Path) -> None:
    """Unix sockets and staged files are not below the step's root.

    BuildKit itself gives a step one socket, for traces.
    """
    said = await step(
        isolated,
        directory / "context",
        f"ls {isolated.root} 2>&1; "
        "find / -name '*.sock' -not -path '/proc/*' -not -path '/dev/otel-grpc.sock' 2>/dev/null; "
        "for p in /proc/[0-9]*; do ls $p/root/run/buildkit >/dev/null 2>&1 && echo via-$p; done; "
        "true",
    )
    assert "No such file" in said
    assert ".sock" not in said
    assert "via-" not in said
