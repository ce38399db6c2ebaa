"""Whatever is wrong with the cache, the build runs: cold, or on an older generation."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from perf.host import free_port
from tests.integration.contexts import BASE, context, write
from tests.integration.sidecars import ANSWERED_WITHIN, Pod, State, pod
from tests.integration.stored import Stored, cut_short, flip

pytestmark = pytest.mark.integration

DOCKERFILE = BASE + "COPY f /f\nRUN cat /f > /g && head -c 200000 /dev/urandom > /noise\n"


@dataclass(frozen=True)
class Seed:
    """A store with two generations, and what they were made from."""

    store: Path
    context: Path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seed(shared: Path) -> Seed:
    place = context(shared / "context", DOCKERFILE, {"f": "first\n"})
    async with pod(shared / "one", f"--store={shared / 'store'}") as one:
        await one.build(place)
        first = await one.published(1)
        write(place, {"f": "second\n"})
        await one.build(place)
        await one.published(first["published"]["number"] + 1)
        assert await one.stop() == 0
    return Seed(shared / "store", place)


@pytest.fixture
def store(seed: Seed, directory: Path) -> Stored:
    """A copy of the seed's store, to be spoilt."""
    shutil.copytree(seed.store, directory / "store")
    return Stored(directory / "store")


def cold(state: State, label: str) -> bool:
    """Whether the sidecar started cold for one reason, which people and metrics see."""
    assert state["by"]["cold_starts"] == {label: 1}
    assert state["cold_reason"]
    assert state["restored"] is None
    return True


async def builds(one: Pod, place: Path) -> None:
    """The build works and its image is right."""
    exported = await one.export(place)
    assert (exported / "g").read_text() == (place / "f").read_text()


@asynccontextmanager
async def awaited_by_a_client(root: Path, place: Path, *flags: str) -> AsyncIterator[Pod]:
    """A sidecar with a client that waits from the first moment; its build works in the end."""
    port = free_port()
    async with Pod(root, f"--listen=127.0.0.1:{port}", *flags) as one:
        await one.while_running(connected(port))
        early = await one.start_build(place, client=("--addr", f"tcp://127.0.0.1:{port}"))
        await one.ready()
        (await early.end()).ok()
        yield one


async def connected(port: int) -> None:
    """Return once somebody listens there."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)  # Nothing tells when a port is bound.
        else:
            writer.close()
            return


def waited(state: State) -> float:
    """Seconds from the start of the sidecar to an answering daemon."""
    return float(sum(state["phase_seconds"].get(p, 0.0) for p in ("restoring", "starting-daemon")))


async def test_without_a_store(seed: Seed, directory: Path) -> None:
    async with pod(directory / "one") as one:
        await builds(one, seed.context)
        assert cold(await one.status(), "no-store")


async def test_an_empty_store(seed: Seed, directory: Path) -> None:
    (directory / "store").mkdir()
    async with pod(directory / "one", f"--store={directory / 'store'}") as one:
        await builds(one, seed.context)
        assert cold(await one.status(), "no-generation")
        await one.published(1)
    Stored(directory / "store").check()


async def test_somebody_elses_directory_is_left_alone(seed: Seed, directory: Path) -> None:
    home = directory / "home"
    write(home, {"letter": "dear\n", "keys/of/the/house": "x"})
    async with pod(directory / "one", f"--store={home}") as one:
        await builds(one, seed.context)
        state = await one.status()
        assert cold(state, "store-unavailable")
        assert "letter" in state["cold_reason"] or "keys" in state["cold_reason"]
        report = await one.checkpoint()
        assert not report["published"]
        assert str(home) in report["reason"]
        assert await one.stop() == 0
    left = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
    assert left == ["keys/of/the/house", "letter"]


async def test_nobody_listens_at_the_stores_address(seed: Seed, directory: Path) -> None:
    url = f"--store=http://127.0.0.1:{free_port()}"
    async with awaited_by_a_client(directory / "one", seed.context, url) as one:
        state = await one.status()
        assert state["by"]["cold_starts"].keys() <= {"store-unavailable", "time-out"}
        assert waited(state) < ANSWERED_WITHIN
        await builds(one, seed.context)


async def test_a_store_that_never_answers(seed: Seed, directory: Path) -> None:
    held: list[asyncio.StreamWriter] = []

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"--store=http://127.0.0.1:{port}"
    try:
        async with awaited_by_a_client(directory / "one", seed.context, url) as one:
            state = await one.status()
            assert cold(state, "time-out")
            assert waited(state) < ANSWERED_WITHIN
            assert held
    finally:
        server.close()
        for writer in held:
            writer.close()


async def falls_back(store: Stored, seed: Seed, root: Path) -> State:
    """The older generation is used, and a new one goes on after the spoilt one."""
    number = len(store.heads)
    async with pod(root, f"--store={store.directory}") as one:
        state = await one.status()
        assert state["cold_reason"] is None
        assert state["restored"]["number"] == number - 1
        await builds(one, seed.context)
        await one.published(number + 1)
        assert await one.stop() == 0
    return state


async def test_a_corrupt_head(store: Stored, seed: Seed, directory: Path) -> None:
    flip(store.heads[-1], 3)
    await falls_back(store, seed, directory / "one")


async def test_a_head_of_a_newer_format(store: Stored, seed: Seed, directory: Path) -> None:
    number = len(store.heads)
    head = store.head(number)
    head.format_version, head.buildsvc_version = 99, "7.0"
    store.heads[-1].chmod(0o644)
    store.heads[-1].write_bytes(head.SerializeToString())
    await falls_back(store, seed, directory / "one")


async def test_only_heads_of_a_newer_format(store: Stored, seed: Seed, directory: Path) -> None:
    for number, path in enumerate(store.heads, start=1):
        head = store.head(number)
        head.format_version = 99
        path.chmod(0o644)
        path.write_bytes(head.SerializeToString())
    async with pod(directory / "one", f"--store={store.directory}") as one:
        state = await one.status()
        assert cold(state, "unsupported-format")
        assert "99" in state["cold_reason"]
        await builds(one, seed.context)


async def test_a_corrupt_root(store: Stored, seed: Seed, directory: Path) -> None:
    flip(store.root_file(len(store.heads)), 40)
    await falls_back(store, seed, directory / "one")


async def test_a_missing_root(store: Stored, seed: Seed, directory: Path) -> None:
    store.root_file(len(store.heads)).unlink()
    await falls_back(store, seed, directory / "one")


async def test_a_corrupt_chunk_of_the_databases(store: Stored, seed: Seed, directory: Path) -> None:
    number = len(store.heads)
    for at in store.databases(number):
        flip(store.pack(at.pack), at.offset + at.stored // 2)
    await recovers(store, seed, directory)


async def test_corrupt_databases_of_every_generation(
    store: Stored, seed: Seed, directory: Path
) -> None:
    numbers = range(1, len(store.heads) + 1)
    # Generations share chunks.
    chunks = {(at.pack, at.offset): at for n in numbers for at in store.databases(n)}
    for at in chunks.values():
        flip(store.pack(at.pack), at.offset + at.stored // 2)
    async with pod(directory / "one", f"--store={store.directory}") as one:
        assert cold(await one.status(), "corrupt-databases")
        await builds(one, seed.context)


async def test_truncated_packs(store: Stored, seed: Seed, directory: Path) -> None:
    for path in store.directory.glob("packs/*/*"):
        cut_short(path, path.stat().st_size // 2)
    await recovers(store, seed, directory)


async def recovers(store: Stored, seed: Seed, directory: Path) -> None:
    """The build works on the spoilt store, and what it publishes is good for the next pod."""
    async with pod(directory / "one", f"--store={store.directory}") as one:
        state = await one.status()
        older = state["restored"] and state["restored"]["number"] < len(store.heads)
        assert older or cold(state, "corrupt-databases")
        await builds(one, seed.context)
        await one.published(len(store.heads))
        assert await one.stop() == 0
    async with pod(directory / "two", f"--store={store.directory}", "--publish=never") as two:
        assert (await two.status())["restored"]["number"] == len(store.heads)
        assert (await two.build(seed.context)).ran == []
        await builds(two, seed.context)
        assert (await two.status())["counts"].get("roots_lost", 0) == 0


async def test_corrupt_layers_cost_one_build_at_most(
    store: Stored, seed: Seed, directory: Path
) -> None:
    """Whether restoring finds them first or the build: that is a race (see test_lost_packs)."""
    for at in store.snapshots(len(store.heads)):
        flip(store.pack(at.pack), at.offset + at.stored // 2)
    async with pod(directory / "one", f"--store={store.directory}") as one:
        place = directory / "out"
        build = await one.try_build(seed.context, f"--output=type=local,dest={place}")
        if build.code:
            state = await one.until(lambda state: state["ready"] and state["epoch"] == 2)
            assert state["advice"]["what"] == "run-again"
        await builds(one, seed.context)
        # Records are dropped beside the builds.
        state = await one.until(lambda state: state["counts"].get("records_dropped", 0) > 0)
        assert state["counts"].get("roots_lost", 0) == bool(build.code)
        assert state["advice"]["what"] == "ok"


async def test_a_complete_restore_does_without_what_is_lost_before_the_first_client(
    store: Stored, seed: Seed, directory: Path
) -> None:
    for at in store.snapshots(len(store.heads)):
        flip(store.pack(at.pack), at.offset + at.stored // 2)
    flags = (f"--store={store.directory}", "--restore=complete")
    async with pod(directory / "one", *flags) as one:
        state = await one.status()
        assert state["restored"]["number"] == len(store.heads)
        assert state["counts"].get("roots_lost", 0) == 0
        assert state["counts"]["roots_mended"] == 1
        assert state["advice"]["what"] == "ok"
        await builds(one, seed.context)
