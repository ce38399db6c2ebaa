"""A client that comes before, during and after every phase, and processes that die under it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from perf.host import free_port
from tests.integration.commands import sidecar
from tests.integration.contexts import BASE, context, write
from tests.integration.objects import Objects, Request, objects
from tests.integration.sidecars import ANSWERED_WITHIN, Pod, State, pod

pytestmark = pytest.mark.integration

DOCKERFILE = (
    BASE
    + "FROM base AS made\nCOPY f /f\n"
    + "RUN cat /f > /g && head -c 3000000 /dev/urandom > /noise\n"
    + "FROM base\nCOPY --from=made /noise /noise\nCOPY last /last\nRUN cat /last > /end\n"
)


@dataclass(frozen=True)
class Seed:
    """What a first pod published."""

    store: Path
    context: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seed(shared: Path) -> Seed:
    place = context(shared / "context", DOCKERFILE, {"f": "f\n", "last": "1\n"})
    async with pod(shared / "one", f"--store={shared / 'store'}") as one:
        await one.build(place)
        assert await one.stop() == 0
    return Seed(shared / "store", place)


@pytest.fixture
def changed(seed: Seed, directory: Path) -> Path:
    """The context with one change in its last stage."""
    place = directory / "changed"
    shutil.copytree(seed.context, place)
    write(place, {"last": "2\n"})
    return place


def whole(build_output: Path) -> bool:
    return (build_output / "end").read_text() == "2\n" and (
        build_output / "noise"
    ).stat().st_size == 3_000_000


async def listening(port: int) -> None:
    """Return once somebody listens there."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.005)  # Nothing tells when a port is bound.
        else:
            writer.close()
            return


async def test_a_client_from_the_first_moment(seed: Seed, changed: Path, directory: Path) -> None:
    port = free_port()
    flags = (f"--store={seed.store}", "--publish=never", f"--listen=127.0.0.1:{port}")
    async with Pod(directory / "one", *flags) as one:
        await one.while_running(listening(port))
        running = await one.start_build(changed, client=("--addr", f"tcp://127.0.0.1:{port}"))
        build = (await running.end()).ok()
        state = await one.status()
        assert state["restored"]
        assert sorted(build.ran) == ["COPY last /last", "RUN cat /last > /end"]
        assert whole(await one.export(changed))


class Held:
    """An object server that keeps requests waiting, if ``wanted``, until it is told to go on."""

    def __init__(self, server: Objects, wanted: Callable[[], bool]) -> None:
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self._wanted = wanted
        server.hook = self._request

    async def _request(self, request: Request) -> web.StreamResponse | None:
        if request.method == "GET" and not request.done and self._wanted():
            self.asked.set()
            await self.go.wait()
        return None


def restored(one: Pod) -> bool:
    """Whether the generation's databases are laid out: what is fetched from then on is layers."""
    # First in a directory of their own, which then becomes buildkitd's.
    places = ("laid-*", "buildkit")
    return any(any(one.root.glob(f"epoch-*/{place}/cache.db")) for place in places)


async def test_a_client_while_databases_are_restored(
    seed: Seed, changed: Path, directory: Path
) -> None:
    port = free_port()
    async with objects(seed.store) as server:
        held = Held(server, lambda: True)
        flags = (f"--store={server.url}", "--publish=never", f"--listen=127.0.0.1:{port}")
        async with Pod(directory / "one", *flags) as one:
            await held.asked.wait()
            running = await one.start_build(changed, client=("--addr", f"tcp://127.0.0.1:{port}"))
            held.go.set()
            build = (await running.end()).ok()
            assert (await one.status())["restored"]
            assert len(build.ran) == 2


async def test_a_client_while_layers_are_restored(
    seed: Seed, changed: Path, directory: Path
) -> None:
    """What the build asks for while it is on its way comes, and the build waits for it."""
    async with objects(seed.store) as server:
        one = Pod(directory / "one", f"--store={server.url}", "--publish=never")
        held = Held(server, lambda: restored(one))
        async with one:
            await one.ready()
            running = await one.start_build(changed, f"--output=type=local,dest={directory / 'o'}")
            await one.until(demanded)
            held.go.set()
            (await running.end()).ok()
            assert whole(directory / "o")
            state = await one.status()
            assert state["counts"].get("roots_lost", 0) == 0
            assert state["objects"]["demand"] > 0


def demanded(state: State) -> bool:
    return any(
        span["kind"] == "fetch" and span["why"] == "demand" and not span["outcome"]
        for span in state["timeline"]
    )


async def test_a_demand_that_is_not_served_in_time_loses_the_root(
    seed: Seed, changed: Path, directory: Path
) -> None:
    async with objects(seed.store) as server:
        flags = (f"--store={server.url}", "--publish=never", "--demand-timeout=1s")
        one = Pod(directory / "one", *flags)
        held = Held(server, lambda: restored(one))
        async with one:
            await one.ready()
            running = await one.start_build(changed, f"--output=type=local,dest={directory / 'o'}")
            state = await one.until(lambda state: state["ready"] and state["epoch"] == 2)
            assert state["advice"]["what"] == "run-again"
            assert "took over 1 s" in state["advice"]["detail"]
            assert (await running.end()).code != 0
            held.go.set()
            assert whole(await one.export(changed))


async def test_complete_restore_admits_clients_when_everything_is_local(
    seed: Seed, changed: Path, directory: Path
) -> None:
    async with objects(seed.store) as server:
        flags = (f"--store={server.url}", "--publish=never", "--restore=complete")
        async with pod(directory / "one", *flags) as one:
            state = await one.status()
            assert state["objects"]["fetched"] == state["objects"]["total"] > 0
            (daemon,) = (span for span in state["timeline"] if span["kind"] == "daemon")
            fetches = [span for span in state["timeline"] if span["kind"] == "fetch"]
            assert all(span["end"] <= daemon["begin"] for span in fetches)
            # The store is not needed any more.
            await server.die()
            assert whole(await one.export(changed))
            assert (await one.status())["counts"].get("roots_lost", 0) == 0


async def test_a_killed_daemon_is_started_again_on_its_root(
    seed: Seed, changed: Path, directory: Path
) -> None:
    async with pod(directory / "one", f"--store={seed.store}", "--publish=never") as one:
        await one.build(changed)
        (daemon,) = one.children("buildkitd.toml")
        os.kill(daemon, signal.SIGKILL)
        # Comes while there is no daemon.
        build = await one.build(changed)
        assert build.ran == []
        state = await one.status()
        assert state["counts"]["daemon_exits"] == 1
        assert state["epoch"] == 1
        assert one.children("buildkitd.toml") != [daemon]
        assert whole(await one.export(changed))


async def test_a_daemon_killed_during_a_build(seed: Seed, changed: Path, directory: Path) -> None:
    write(changed, {"Dockerfile": DOCKERFILE + "RUN echo goes-on && sleep 60\n"})
    async with pod(directory / "one", f"--store={seed.store}", "--publish=never") as one:
        running = await one.start_build(changed)
        await running.says("goes-on")
        (daemon,) = one.children("buildkitd.toml")
        os.kill(daemon, signal.SIGKILL)
        assert (await running.end()).code != 0
        write(changed, {"Dockerfile": DOCKERFILE})
        assert whole(await one.export(changed))
        assert one.children("sleep 60") == []


async def test_a_lost_root_is_replaced_by_an_empty_one(
    seed: Seed, changed: Path, directory: Path
) -> None:
    flags = (f"--store={seed.store}", "--publish=never", "--http-listen=127.0.0.1:0")
    async with pod(directory / "one", *flags) as one:
        await one.build(changed)
        os.kill(one.agent(), signal.SIGKILL)
        # Until then the daemon that is lost may take a client's connection with it.
        await one.until(lambda state: state["epoch"] == 2)
        async with asyncio.timeout(ANSWERED_WITHIN):
            workers = await one.client("debug", "workers")
        assert workers.code == 0, workers.err
        state = await one.until(lambda state: state["ready"] and state["epoch"] == 2)
        assert state["advice"]["what"] == "run-again"
        assert state["by"]["cold_starts"] == {"root-lost": 1}
        assert await one.metric("buildsvc_sidecar_roots_lost_total") == 1
        assert await one.metric("buildsvc_sidecar_run_again") == 1
        build = await one.build(changed)
        assert build.cached == []
        assert (await one.status())["advice"]["what"] == "ok"
        assert await one.metric("buildsvc_sidecar_run_again") == 0


async def test_an_agent_killed_during_a_build(seed: Seed, changed: Path, directory: Path) -> None:
    """The one build that the cache can fail; run again, it works, and nothing lost is published."""
    write(changed, {"Dockerfile": DOCKERFILE + "RUN echo goes-on && sleep 60\n"})
    store = directory / "store"
    shutil.copytree(seed.store, store)
    async with pod(directory / "one", f"--store={store}") as one:
        running = await one.start_build(changed)
        await running.says("goes-on")
        os.kill(one.agent(), signal.SIGKILL)
        assert (await running.end()).code != 0
        state = await one.until(lambda state: state["ready"] and state["epoch"] == 2)
        assert state["advice"]["what"] == "run-again"
        assert state["published"] is None
        write(changed, {"Dockerfile": DOCKERFILE})
        assert whole(await one.export(changed))
        assert await one.stop() == 0


async def gone(pid: int) -> None:
    """Return when a process that is no child of ours has ended."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)


async def test_a_killed_sidecar_leaves_nothing_behind(
    seed: Seed, changed: Path, directory: Path
) -> None:
    async with pod(directory / "one", f"--store={seed.store}", "--publish=never") as one:
        await one.build(changed)
        left = one.children("")
        assert len(left) > 3
        await one.kill()
        async with asyncio.timeout(ANSWERED_WITHIN):
            await asyncio.gather(*(gone(pid) for pid in left))
        # The next sidecar takes the root over and deletes what the first one left.
        before = one.epochs
        await one.start()
        await one.ready()
        assert (await one.status())["restored"]
        assert (await one.build(seed.context)).ran == []
        assert whole(await one.export(changed))
        assert await one.stop() == 0
        assert not set(before) & set(one.epochs)


async def test_wait_ready_tells_a_sidecar_that_never_comes(directory: Path) -> None:
    ended = await sidecar("wait-ready", f"--root={directory / 'none'}", "--timeout=300ms")
    assert ended.code == 75
    assert "no build is served yet" in ended.err
