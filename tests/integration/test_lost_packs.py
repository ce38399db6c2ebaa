"""A pack that the store has lost: what was in it is stored again by the pod that still has it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.contexts import BASE, context, write
from tests.integration.objects import Request, objects
from tests.integration.sidecars import State, pod
from tests.integration.stored import Stored, flip

pytestmark = pytest.mark.integration


def of_one_layer_only(store: Stored) -> Path:
    """A pack with nothing in it but the large file's content."""
    root = store.root(len(store.heads))
    packs = {at.pack for at in store.databases(len(store.heads))}
    trees = {chunk for item in root.snapshots for chunk in item.tree.tree}
    packs |= {root.packs[root.chunk_packs[chunk]].digest for chunk in trees}
    (first, *_) = [pack.digest for pack in root.packs if pack.digest not in packs]
    return store.pack(first)


@pytest.mark.parametrize("how", ["missing", "corrupt"])
async def test_the_next_pod_is_whole(directory: Path, how: str) -> None:
    # More than two packs hold, so that one of them has nothing else.
    noise = random.Random(1).randbytes(60 << 20)
    place = context(
        directory / "context",
        BASE + "COPY f /f\nCOPY noise /noise\nRUN cat /f > /g\n",
        {"f": "1\n", "noise": noise},
    )
    store = Stored(directory / "store")
    flag = f"--store={store.directory}"
    async with pod(directory / "one", flag) as one:
        await one.build(place)
        report = await one.checkpoint()
        assert report["published"], report
        assert await one.stop() == 0
    lost = of_one_layer_only(store)
    if how == "missing":
        lost.unlink()
    else:
        for at in range(1000, lost.stat().st_size - 10_000, 100_000):
            flip(lost, at)
    async with pod(directory / "two", flag) as two:
        await two.until(failed)
        # The same content on another layer: nobody needs the lost one.
        write(place, {"f": "2\n"})
        build = await two.build(place)
        assert any("noise" in step for step in build.ran)
        report = await two.checkpoint()
        assert report["published"], report
        assert (await two.status())["counts"].get("roots_lost", 0) == 0
        assert await two.stop() == 0
    newest = store.root(len(store.heads))
    assert lost.name not in {pack.digest.hex() for pack in newest.packs}
    async with pod(directory / "three", flag, "--restore=complete") as three:
        state = await three.status()
        assert state["restored"]["number"] == len(store.heads)
        assert (await three.build(place)).ran == []
        assert ((await three.export(place)) / "noise").read_bytes() == noise
        assert await three.stop() == 0


async def test_a_lost_layer_is_pruned_with_the_merge_that_holds_it(directory: Path) -> None:
    noise = random.Random(2).randbytes(60 << 20)
    place = context(directory / "context", BASE + "COPY --link noise /noise\n", {"noise": noise})
    other = context(directory / "other", BASE + "RUN echo other > /other\n", {})
    store = Stored(directory / "store")
    flag = f"--store={store.directory}"
    async with pod(directory / "one", flag) as one:
        await one.build(place)
        report = await one.checkpoint()
        assert report["published"], report
        assert await one.stop() == 0
    lost = of_one_layer_only(store)
    lost.unlink()
    async with pod(directory / "two", flag) as two:
        await two.until(lambda state: state["counts"].get("records_dropped", 0) > 1)
        await two.build(other)
        report = await two.checkpoint()
        assert report["published"], report
        assert await two.stop() == 0
    newest = store.root(len(store.heads))
    assert lost.name not in {pack.digest.hex() for pack in newest.packs}
    async with pod(directory / "three", flag, "--restore=complete") as three:
        assert (await three.build(other)).ran == []
        assert ((await three.export(place)) / "noise").read_bytes() == noise
        assert await three.stop() == 0


_LAYERS = BASE + "COPY f /f\nRUN cat /f > /kept\nCOPY noise /noise\nRUN echo {} > /last\n"


@dataclass(frozen=True)
class Damaged:
    """A store that has lost a layer with ``noise``, and a context in which a line has changed."""

    store: Stored
    noise: bytes
    context: Path
    lost: Path

    async def next_is_whole(self, directory: Path) -> None:
        """What has been published since names nothing that is lost."""
        flag = f"--store={self.store.directory}"
        async with pod(directory / "next", flag, "--restore=complete") as one:
            state = await one.status()
            assert state["restored"]["number"] == len(self.store.heads)
            assert (await one.build(self.context)).ran == []
            made = await one.export(self.context)
            assert (made / "noise").read_bytes() == self.noise
            assert (made / "last").read_text() == "2\n"
            assert await one.stop() == 0


@pytest_asyncio.fixture
async def damaged(directory: Path) -> Damaged:
    noise = random.Random(3).randbytes(60 << 20)
    place = context(directory / "context", _LAYERS.format(1), {"f": "f\n", "noise": noise})
    store = Stored(directory / "store")
    async with pod(directory / "one", f"--store={store.directory}") as one:
        await one.build(place)
        report = await one.checkpoint()
        assert report["published"], report
        assert await one.stop() == 0
    lost = of_one_layer_only(store)
    for at in range(1000, lost.stat().st_size - 10_000, 100_000):
        flip(lost, at)
    write(place, {"Dockerfile": _LAYERS.format(2)})
    return Damaged(store, noise, place, lost)


async def test_a_layer_lost_under_a_build_costs_only_what_needs_it(
    damaged: Damaged, directory: Path
) -> None:
    async with objects(damaged.store.directory) as served:
        asked = asyncio.Event()

        async def hook(request: Request) -> None:
            if request.name.endswith(damaged.lost.name):
                await asked.wait()

        served.hook = hook
        async with pod(directory / "two", f"--store={served.url}") as two:
            running = await two.start_build(damaged.context)
            await two.until(_waits)
            asked.set()
            assert (await running.end()).code
            state = await two.until(lambda state: state["ready"] and state["epoch"] == 2)
            assert state["advice"]["what"] == "run-again"
            assert (state["counts"]["roots_lost"], state["counts"]["roots_mended"]) == (1, 1)
            assert state["by"].get("cold_starts", {}) == {}
            build = await two.build(damaged.context)
            assert sorted(build.ran) == ["COPY noise /noise", "RUN echo 2 > /last"]
            assert (await two.checkpoint())["published"]
            assert await two.stop() == 0
    await damaged.next_is_whole(directory)


async def test_a_layer_lost_before_a_build_fails_none(damaged: Damaged, directory: Path) -> None:
    async with pod(directory / "two", f"--store={damaged.store.directory}") as two:
        await two.until(lambda state: state["counts"].get("records_dropped", 0) > 0)
        build = await two.build(damaged.context)
        assert sorted(build.ran) == ["COPY noise /noise", "RUN echo 2 > /last"]
        assert (await two.checkpoint())["published"]
        assert (await two.status())["counts"].get("roots_lost", 0) == 0
        assert await two.stop() == 0
    await damaged.next_is_whole(directory)


def _waits(state: State) -> bool:
    """Whether a build waits for an object."""
    spans = [span for span in state["timeline"] if span["kind"] == "fetch"]
    return any(span["why"] == "demand" and span["end"] is None for span in spans)


def failed(state: State) -> bool:
    return any(s["kind"] == "fetch" and s["outcome"] == "failed" for s in state["timeline"])
