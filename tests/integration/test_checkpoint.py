"""Checkpoints: no client notices them, and what they publish is whole."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.commands import sidecar
from tests.integration.contexts import BASE, context, write
from tests.integration.exports import files
from tests.integration.sidecars import ANSWERED_WITHIN, Pod, State, pod
from tests.integration.stored import Stored

pytestmark = pytest.mark.integration

DOCKERFILE = BASE + "COPY f /f\nRUN cat /f > /g\n"
_BUILDS = 100


@pytest.fixture
def place(directory: Path) -> Path:
    return context(directory / "context", DOCKERFILE, {"f": "first\n"})


@pytest.fixture
def store(directory: Path) -> Stored:
    return Stored(directory / "store")


#: What an HTTP/2 client says first (RFC 9113, 3.4): the preface and an empty SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4


class ClientInThePause:
    """Connects at the moment in which a checkpoint has stopped the daemon."""

    def __init__(self, one: Pod) -> None:
        (self._daemon,) = one.children("buildkitd.toml")
        self._port = int(one.endpoint()["address"].rpartition(":")[2])
        self.came = 0

    async def follow(self, checkpoint: asyncio.Task[State]) -> None:
        """Connect when the daemon is stopped, and be answered; return with the checkpoint's end."""
        while not checkpoint.done():
            if self._stopped():
                await self._connect()
            await asyncio.sleep(0.0005)  # Nothing tells when a process is stopped.

    def _stopped(self) -> bool:
        return Path(f"/proc/{self._daemon}/stat").read_text().rpartition(") ")[2][0] == "T"

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.came += self._stopped()
        writer.write(_PREFACE)
        async with asyncio.timeout(ANSWERED_WITHIN):
            frame = await reader.readexactly(9)
        assert frame[3] == _SETTINGS
        writer.close()


async def test_a_hundred_builds_during_checkpoints(
    place: Path, store: Stored, directory: Path
) -> None:
    """Clients come before, in and after the daemon's pause; none is refused and none fails."""
    async with pod(directory / "one", f"--store={store.directory}") as one:
        client = ClientInThePause(one)
        published = 0
        for count in range(_BUILDS):
            write(place, {"f": f"{count}\n"})
            racing = asyncio.create_task(one.checkpoint())
            if count % 6 == 5:
                await client.follow(racing)
            await one.build(place)
            published += (await racing)["published"]
        assert client.came > 0
        assert published > _BUILDS // 10
        assert (await one.status())["by"]["builds"] == {"ok": _BUILDS}
        report = await one.checkpoint()
        assert report["published"], report
        assert await one.stop() == 0
    store.check()


async def test_builds_of_earlier_pods_are_not_counted_again(
    place: Path, store: Stored, directory: Path
) -> None:
    async with pod(directory / "one", f"--store={store.directory}") as one:
        await one.build(place)
        assert await one.stop() == 0
    async with pod(directory / "two", f"--store={store.directory}") as two:
        # The daemon itself remembers that build, and is asked for it here.
        report = await two.checkpoint()
        state = await two.status()
        assert state["restored"]
        assert "builds" not in state["by"]
        assert report["published"], report
        write(place, {"f": "second\n"})
        await two.build(place)
        assert (await two.checkpoint())["published"]
        assert (await two.status())["by"]["builds"] == {"ok": 1}
        assert await two.stop() == 0


async def test_the_command_prints_what_was_published(
    place: Path, store: Stored, directory: Path
) -> None:
    async with pod(directory / "one", f"--store={store.directory}", "--cache-key=app") as one:
        await one.build(place)
        printed = await sidecar("checkpoint", f"--root={one.root}")
        assert printed.code == 0
        report = json.loads(printed.out)
        assert report["published"]
        assert report["key"] == "app"
        assert report["number"] == len(store.heads)
        root = store.root(report["number"])
        assert report["snapshots"] == len(root.snapshots) > 0
        assert report["blobs"] == len(root.blobs)


async def test_nothing_is_published_never(place: Path, store: Stored, directory: Path) -> None:
    flags = (f"--store={store.directory}", "--publish=never")
    async with pod(directory / "one", *flags) as one:
        await one.build(place)
        asked = await sidecar("checkpoint", f"--root={one.root}")
        assert asked.code == 64
        assert "never" in asked.err
        assert await one.stop() == 0
    assert not store.directory.exists()


async def test_failed_builds_publish_only_if_always(
    place: Path, store: Stored, directory: Path
) -> None:
    broken = context(directory / "broken", DOCKERFILE + "RUN false\n", {"f": "x\n"})
    flags = (f"--store={store.directory}", "--publish=on-success")
    async with pod(directory / "one", *flags) as one:
        assert (await one.try_build(broken)).code != 0
        assert (await one.status())["advice"]["what"] == "build-failed"
        assert await one.stop() == 0
    assert store.heads == []
    async with pod(directory / "two", *flags) as two:
        assert (await two.try_build(broken)).code != 0
        await two.build(place)
        assert await two.stop() == 0
    number = len(store.heads)
    assert number >= 1
    async with pod(directory / "three", f"--store={store.directory}") as three:
        # What the failed build had finished is in the generation that the other one published.
        assert (await three.try_build(broken)).ran == ["RUN false"]
        assert await three.stop() == 0
    assert len(store.heads) == number + 1


class Gate:
    """Lets a RUN step go on when the test says so, over the network that the step may use."""

    def __init__(self, directory: Path) -> None:
        self.context = directory
        self._opened = asyncio.Event()
        self.reached = asyncio.Event()

    async def start(self, address: str) -> None:
        self._server = await asyncio.start_server(self._client, address, 0)
        port = self._server.sockets[0].getsockname()[1]
        step = f"RUN wget -q -O /answer http://{address}:{port}/\n"
        context(self.context, BASE + "COPY f /f\n" + step, {"f": "gate\n"})

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.reached.set()
        await self._opened.wait()
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nyes")
        await writer.drain()
        writer.close()

    def open(self) -> None:
        self._opened.set()

    def close(self) -> None:
        self._opened.set()
        self._server.close()


@pytest_asyncio.fixture
async def gate(directory: Path, reachable_address: str) -> AsyncIterator[Gate]:
    made = Gate(directory / "gated")
    await made.start(reachable_address)
    yield made
    made.close()


async def test_sigterm_waits_for_the_build_and_publishes_it(
    gate: Gate, store: Stored, directory: Path
) -> None:
    async with pod(directory / "one", f"--store={store.directory}") as one:
        running = await one.start_build(gate.context)
        await gate.reached.wait()
        one.signal(signal.SIGTERM)
        await one.until(lambda state: state["phase"] == "draining")
        gate.open()
        (await running.end()).ok()
        assert await one.ended() == 0
    assert len(store.heads) == 1
    async with pod(directory / "two", f"--store={store.directory}") as two:
        assert (await two.build(gate.context)).ran == []


async def test_a_grace_period_that_ends_first_publishes_nothing_new(
    gate: Gate, place: Path, store: Stored, directory: Path
) -> None:
    flags = (f"--store={store.directory}", "--grace=11s")
    async with pod(directory / "one", *flags) as one:
        await one.build(place)
        before = (await one.published(1))["published"]["number"]
        running = await one.start_build(gate.context)
        await gate.reached.wait()
        one.signal(signal.SIGTERM)
        assert await one.ended() == 0
        assert (await running.end()).code != 0
        assert "the grace period ended first" in one.log
    assert len(store.heads) == before
    store.check()


async def test_two_sidecars_publish_on_one_key(store: Stored, directory: Path) -> None:
    """The one that loses the race publishes as the winner's child; both generations are whole."""
    places = [
        context(directory / f"context-{n}", DOCKERFILE, {"f": f"number {n}\n"}) for n in (1, 2)
    ]
    flag = f"--store={store.directory}"
    async with pod(directory / "one", flag) as one, pod(directory / "two", flag) as two:
        await asyncio.gather(one.build(places[0]), two.build(places[1]))
        await asyncio.gather(one.checkpoint(), two.checkpoint())
        assert await one.stop() == await two.stop() == 0
    store.check()
    count = len(store.heads)
    assert count >= 2
    assert [store.head(n).number for n in range(1, count + 1)] == list(range(1, count + 1))
    sizes = {len(store.root(n).snapshots) for n in range(1, count + 1)}
    assert min(sizes) > 0
    # Each can be restored: the newest as it is, the other when the newest is gone.
    made = []
    for number in (count, count - 1):
        for head in store.heads[number:]:
            head.unlink()
        async with pod(directory / f"reader-{number}", flag, "--publish=never") as reader:
            assert (await reader.status())["restored"]["number"] == number
            made.append([(await reader.build(c)).ran == [] for c in places])
    assert all(any(cached) for cached in made)


async def test_a_second_generation_stores_what_changed(store: Stored, directory: Path) -> None:
    noise = "RUN head -c 20000000 /dev/urandom > /noise\n"
    place = context(directory / "context", BASE + noise + "COPY f /f\n", {"f": "1\n"})
    async with pod(directory / "one", f"--store={store.directory}") as one:
        await one.build(place)
        assert (await one.checkpoint())["published"]
        first = store.size
        assert first > 20_000_000
        write(place, {"f": "2\n"})
        await one.build(place)
        report = await one.checkpoint()
        assert report["published"]
        added = store.size - first
        assert added < 1_000_000
        assert await one.stop() == 0
    before = store.size
    async with pod(directory / "two", f"--store={store.directory}") as two:
        write(place, {"f": "3\n"})
        await two.build(place)
        assert (await two.checkpoint())["published"]
        assert await two.stop() == 0
    assert store.size - before < 1_000_000
    store.check()


async def test_a_chain_of_generations(store: Stored, directory: Path) -> None:
    place = context(
        directory / "context",
        BASE
        + "COPY f /f\nRUN --mount=type=cache,target=/c cat /f >> /c/log && cp /c/log /log\n"
        + "RUN head -c 50000 /dev/urandom > /noise\n",
    )
    expected, image = "", {}
    for number in range(1, 4):
        write(place, {"f": f"{number}\n"})
        expected += f"{number}\n"
        async with pod(directory / f"pod-{number}", f"--store={store.directory}") as one:
            state = await one.status()
            assert (state["restored"] or {"number": 0})["number"] == len(store.heads)
            exported = await one.export(place)
            assert (exported / "log").read_text() == expected
            await one.published(len(store.heads))
            assert await one.stop() == 0
        image = files(exported)
    async with pod(directory / "last", f"--store={store.directory}") as last:
        assert (await last.build(place)).ran == []
        assert files(await last.export(place)) == image
    store.check()


async def test_what_a_step_left_running_is_ended_before_its_mounts_are_read(
    store: Stored, directory: Path
) -> None:
    """Without a pid namespace of its own a RUN step's background process outlives it."""
    # Its output is elsewhere: BuildKit waits for whoever holds the step's.
    loop = "while :; do date > /mount/f; sleep 0.1; done"
    left = f"RUN --mount=type=cache,target=/mount sh -c '{loop}' >/dev/null 2>&1 </dev/null &\n"
    place = context(directory / "context", BASE + left, {})
    async with pod(directory / "one", f"--store={store.directory}") as one:
        await one.build(place)
        assert one.children("date > /mount/f") != []
        assert (await one.checkpoint())["published"]
        assert one.children("date > /mount/f") == []
        assert await one.stop() == 0
    store.check()
