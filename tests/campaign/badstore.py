"""Point 5: stores that refuse, throttle and break connections, and stores that are not there."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from unittest import mock

from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.packs import pack_name, verify
from buildsvc.store.contract import Store
from buildsvc.store.local import LocalStore
from buildsvc.store.open import open_store
from perf.host import free_port
from perf.objectserver import ObjectServer
from tests import minio
from tests.campaign.points import Found, Part, Point, Scene
from tests.campaign.weather import Weather
from tests.integration.contexts import BASE, context
from tests.integration.seed import KEY
from tests.integration.sidecars import ANSWERED_WITHIN, Pod
from tests.integration.steady import Project
from tests.integration.test_cold import awaited_by_a_client, connected, waited
from tests.unit.store.serving import serving

GRACE = 20.0
"""Seconds that a pod has for publishing, once it is told to end."""
#: Seconds beside that for ending everything else, on a busy machine.
_ENDING = 5.0


@asynccontextmanager
async def _http(scene: Scene) -> AsyncIterator[tuple[Store, Weather, str]]:
    directory = scene.directory / "store"
    async with serving(ObjectServer(LocalStore(directory)).application()) as url:
        weather = Weather(url, random.Random(scene.seed))
        async with weather.blowing():
            yield LocalStore(directory), weather, weather.url


@asynccontextmanager
async def _s3(scene: Scene) -> AsyncIterator[tuple[Store, Weather, str]]:
    with minio.running(scene.directory) as server:
        weather = Weather(server.endpoint, random.Random(scene.seed))
        async with weather.blowing():
            address = f"s3://{minio.BUCKET}/ci?region=us-east-1&endpoint="
            with mock.patch.dict(os.environ, minio.CREDENTIALS):
                store = open_store(address + server.endpoint)
                yield store, weather, address + weather.url


WEATHERS: Mapping[str, Callable[[Scene], AbstractAsyncContextManager[tuple[Store, Weather, str]]]]
WEATHERS = {"http": _http, "s3": _s3}


async def _endure(scene: Scene, kind: str, pods: int) -> Found:
    """Pod after pod changes a line and publishes, through bad weather."""
    counts, longest = Counter[str](), 0.0
    project = Project(scene.directory / "context")
    async with WEATHERS[kind](scene) as (store, weather, address):
        weather.fair = True
        await _pod(scene, project, address, 0)
        weather.fair = False
        newest, revision = await _whole(store), 0
        for number in range(1, pods + 1):
            ran_twice, seconds = await _pod(scene, project, address, number)
            longest = max(longest, seconds)
            assert seconds < GRACE + _ENDING, f"pod {number} took {seconds:.1f} s to end"
            found = await _whole(store)
            assert found >= newest, f"generation {newest} is not the newest any more: {found}"
            counts["published" if found > newest else "given_up"] += 1
            counts["builds_run_twice"] += ran_twice
            if found > newest:
                newest, revision = found, number
            scene.say(f"pod {number} of {pods}: generation {newest}, line {revision}")
        weather.fair = True
        # What is there now is served to whoever comes.
        await _pod(scene, project, address, revision, cached=True)
        await store.close()
    figures = {**counts, "requests": dict(weather.counts), "most_seconds_to_end": longest}
    return Found(figures)


async def _pod(
    scene: Scene, project: Project, address: str, revision: int, *, cached: bool = False
) -> tuple[bool, float]:
    """Whether its build ran twice, and the seconds from SIGTERM to its end."""
    port = free_port()
    flags = (
        f"--store={address}", f"--grace={GRACE:g}s", "--demand-timeout=10s",
        f"--listen=127.0.0.1:{port}",
    )  # fmt: skip
    environment = {**minio.CREDENTIALS, "NO_PROXY": "127.0.0.1"} if "s3:" in address else {}
    async with Pod(scene.directory / "pod", *flags, env=environment) as one:
        # With nobody waiting it takes the time that a bad store needs.
        await one.while_running(connected(port))
        await one.ready()
        answered = waited(await one.status())
        assert answered < ANSWERED_WITHIN, f"a client waited for {answered:.2f} s"
        build, archive = await project.build(one, revision)
        ran_twice = bool(build.code)
        if ran_twice:
            # A layer that could not be had: the one case in which the cache fails a build.
            state = await one.until(lambda state: state["ready"] and state["epoch"] == 2)
            assert state["counts"]["roots_lost"] == 1
            build, archive = await project.build(one, revision)
        build.ok()
        project.check(archive, revision)
        assert not cached or not build.ran, f"not cached: {build.ran}"
        began = time.monotonic()
        one.signal(signal.SIGTERM)
        assert one.process is not None
        async with asyncio.timeout(GRACE + 60):
            code = await one.process.wait()
        assert code == 0, f"it ended with {code}"
        return ran_twice, time.monotonic() - began


async def _whole(store: Store) -> int:
    """Number of the newest generation, of which nothing is missing and nothing wrong."""
    log = GenerationLog(store, KEY)
    newest = await log.newest()
    if newest is None:
        return 0
    root = await log.read_root(newest)
    for pack in root.packs:
        verify(await store.get(pack_name(pack.digest)), pack.digest)
    return newest.number


@asynccontextmanager
async def _refusing() -> AsyncIterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@asynccontextmanager
async def _silent() -> AsyncIterator[str]:
    held: list[asyncio.StreamWriter] = []

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for writer in held:
        writer.close()


@asynccontextmanager
async def _never_connecting() -> AsyncIterator[str]:
    # Nobody accepts, and the backlog is full: packets of further connections are dropped.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.settimeout(0)
            each.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"
        for each in waiting:
            each.close()


@asynccontextmanager
async def _trickling() -> AsyncIterator[str]:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 1000
        try:
            for byte in answer:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.5)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


@asynccontextmanager
async def _unresolved() -> AsyncIterator[str]:
    # RFC 6761, 6.4: a name that does not exist.
    yield "http://nowhere.invalid:9000"


ABSENCES: Mapping[str, Callable[[], AbstractAsyncContextManager[str]]] = {
    "refusing": _refusing,
    "silent": _silent,
    "never connecting": _never_connecting,
    "trickling": _trickling,
    "unresolved": _unresolved,
}


async def _go_cold(scene: Scene, kind: str, pods: int) -> Found:
    """Pod after pod with a client that waits from the first moment, and no store."""
    longest, misses = 0.0, []
    place = context(scene.directory / "context", BASE + "RUN echo built\n")
    for number in range(1, pods + 1):
        async with (
            ABSENCES[kind]() as address,
            awaited_by_a_client(scene.directory / "pod", place, f"--store={address}") as one,
        ):
            state = await one.status()
            assert state["restored"] is None
            seconds = waited(state)
        longest = max(longest, seconds)
        scene.say(f"pod {number} of {pods}: {seconds:.2f} s")
        if seconds > ANSWERED_WITHIN:
            misses.append(f"pod {number}: the daemon answered after {seconds:.2f} s")
    return Found({"cold_pods": pods, "most_seconds_to_an_answer": longest}, misses)


def _parts(pods: int) -> list[Part]:
    def weather(kind: str) -> Part:
        return Part(f"bad {kind}", lambda scene: asyncio.run(_endure(scene, kind, pods)))

    def absence(kind: str) -> Part:
        return Part(kind, lambda scene: asyncio.run(_go_cold(scene, kind, pods)))

    return [*map(weather, WEATHERS), *map(absence, ABSENCES)]


POINT = Point(
    number=5,
    name="bad stores",
    claim="10 % of the requests get a 503, 5 % a 429, 15 % a broken connection: a pod publishes by"
    " its deadline or gives up cleanly, and what is published is whole. No store at all: the daemon"
    f" answers a waiting client within {ANSWERED_WITHIN:g} s, cold.",
    unit="pods on each bad and each absent store",
    full=25,
    quick=2,
    parts=_parts,
    minutes="25 minutes, quick 2",
    room=4 << 30,
)
