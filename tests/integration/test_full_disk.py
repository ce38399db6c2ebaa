"""A disk that is full, or fills while a pod works on it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.commands import PATIENCE, command
from tests.integration.contexts import BASE, context
from tests.integration.machines import Machine, machine
from tests.integration.objects import Request, objects
from tests.integration.sidecars import State, pod
from tests.integration.stored import Stored

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

#: Bytes of each of a generation's layers, and how many there are of them.
_LAYER, _LAYERS = 12_000_000, 6
_MANY = BASE + "".join(
    f"FROM base AS stage{number}\nRUN head -c {_LAYER} /dev/urandom > /data\n"
    for number in range(_LAYERS)
)
_MANY += "FROM base\n" + "".join(
    f"COPY --from=stage{number} /data /data{number}\n" for number in range(_LAYERS)
)
_SMALL = BASE + "RUN echo small > /small\n"
#: Has room on the machine of `narrow` only if nothing else is there.
_LARGE = BASE + "RUN head -c 60000000 /dev/urandom > /large && echo large\n"
_TOO_LARGE = BASE + "RUN head -c 200000000 /dev/zero > /large\n"


@pytest.mark.parametrize("size", ["4k", "1m"])
async def test_no_room_for_the_root(directory: Path, size: str) -> None:
    async with machine(directory / "disk", size) as full:
        ended = await command(
            *full.enter, sys.executable, "-m", "sidecar", "run", f"--root={full.inside}/root",
            "--listen=127.0.0.1:0", "--http-listen=off", "--log-format=human",
        )  # fmt: skip
    assert ended.code == 73
    assert re.search("found: (No space left on device|.* KiB)", ended.err)
    for word in ("expected:", "what to do:"):
        assert word in ended.err
    assert "Traceback" not in ended.err


async def test_what_an_earlier_sidecar_left_makes_room(directory: Path) -> None:
    """As when the container of a sidecar is started again on its volume."""
    async with machine(directory / "disk", "64m") as full:
        await full.shell("mkdir $1/epoch-7; head -c 60000000 /dev/zero > $1/epoch-7/left")
        async with full.pod() as one:
            await one.ready()
            await one.build(context(directory / "small", _SMALL))
            assert await one.stop() == 0


async def test_a_build_that_fills_the_disk_fails_of_its_own(directory: Path) -> None:
    store = directory / "store"
    async with machine(directory / "disk", "96m") as small:
        async with small.pod(f"--store={store}") as one:
            await one.ready()
            build = await one.try_build(context(directory / "large", _TOO_LARGE))
            assert build.code
            assert "did not complete successfully" in build.text
            state = await one.until(lambda state: state["advice"]["what"] != "ok")
            assert state["advice"]["what"] == "build-failed"
            assert state["by"]["builds"] == {"failed": 1}
            assert "a build failed on a full disk" in one.log
            # The checkpoint's prune has the daemon let go of the failed step. By itself it does so
            # after a minute (control.go, throttledGC).
            await _until(small, lambda free: free > 80 << 20, within=PATIENCE / 2)
            await one.build(context(directory / "small", _SMALL))
            assert (await one.checkpoint())["published"]
            assert await one.stop() == 0
            assert "Traceback" not in one.log
        Stored(store).check()
    await _finds(directory, store)


async def test_the_cache_leaves_room_to_builds(directory: Path) -> None:
    """A build that has room without the cache succeeds: at the latest when it is run again."""
    store = await _seed(directory)
    async with machine(directory / "disk", "96m") as narrow:
        async with narrow.pod(f"--store={store}") as one:
            await one.ready()
            large = context(directory / "large", _LARGE)
            build = await one.try_build(large)
            if build.code:
                assert "did not complete successfully" in build.text
                await one.until(lambda s: s["ready"] and s["advice"]["what"] == "run-again")
                build = await one.build(large)
            assert "large" in build.output
            await one.until(lambda state: state["advice"]["what"] == "ok")
            assert (await one.checkpoint())["published"]
            assert await one.stop() == 0
            assert "Traceback" not in one.log
        Stored(store).check()
    await _finds(directory, store)


async def test_what_nobody_asks_for_does_not_fill_the_disk(directory: Path) -> None:
    store = await _seed(directory)
    async with machine(directory / "disk", "64m") as narrow, narrow.pod(f"--store={store}") as one:
        await one.ready()
        # Whatever is fetched has room.
        state = await one.until(lambda state: "prefetch_stopped" in state["counts"])
        assert _nothing_fetched_now(state)
        assert 0 < state["objects"]["fetched"] < state["objects"]["total"]
        assert "errors" not in state["by"]
        assert await _free(narrow) > 0
        await one.build(context(directory / "small", _SMALL))
        assert await one.stop() == 0


async def test_a_restore_that_has_no_room_at_all_goes_on_cold(directory: Path) -> None:
    store = await _seed(directory)
    flags = (f"--store={store}", "--restore=complete")
    async with machine(directory / "disk", "48m") as narrow, narrow.pod(*flags) as one:
        await one.ready()
        state = await one.status()
        assert state["by"]["cold_starts"] == {"daemon-refused": 1}
        await one.build(context(directory / "small", _SMALL))
        assert await one.stop() == 0
        assert "Traceback" not in one.log


async def test_a_disk_that_fills_while_packs_are_made(directory: Path) -> None:
    """The build is over and has succeeded; publishing waits until there is room."""
    async with objects(directory / "store") as store, machine(directory / "disk", "400m") as small:
        filled = asyncio.Event()

        async def hold(request: Request) -> None:
            if request.writes and request.name.startswith("packs/"):
                await filled.wait()

        # More packs than the packer makes ahead of their upload: it is still at it.
        store.hook = hold
        packing = context(directory / "packing", _LARGE.replace("60000000", "180000000"))
        async with small.pod(f"--store={store.url}") as one:
            await one.ready()
            await one.build(packing)
            async with greedy(small):
                filled.set()
                state = await one.until(lambda state: "checkpoints_skipped" in state["by"])
                assert state["published"] is None
                assert store.heads == []
            await one.published(1)
            assert await one.stop() == 0
            assert "No space left on device" in one.log
            assert "Traceback" not in one.log
    Stored(directory / "store").check()
    await _finds(directory, directory / "store")


async def test_a_disk_that_stays_full_does_not_keep_the_pod(directory: Path) -> None:
    store = directory / "store"
    async with machine(directory / "disk", "64m") as small, small.pod(f"--store={store}") as one:
        await one.ready()
        await one.build(context(directory / "small", _SMALL))
        await one.published(1)
        await one.build(context(directory / "other", _SMALL + "RUN echo other > /other\n"))
        await small.shell("head -c 200000000 /dev/zero > $1/fill || true")
        assert await one.stop() == 0
        assert "Traceback" not in one.log
    Stored(store).check()


@asynccontextmanager
async def greedy(here: Machine) -> AsyncIterator[None]:
    """Somebody takes every byte of the disk, also those that become free."""
    await here.shell('touch "$1/greedy"')
    script = (
        'while [ -e "$1/greedy" ]; do cat /dev/zero >> "$1/fill" 2>&- || true; done; rm "$1/fill"'
    )
    taking = asyncio.create_task(here.shell(script))
    try:
        await _until(here, lambda free: free < 1 << 16)
        yield
    finally:
        await here.shell('rm "$1/greedy"')
        await taking


async def _seed(directory: Path) -> Path:
    """A store with a generation of more than the machines' disks have room for."""
    store = directory / "store"
    async with pod(directory / "seed", f"--store={store}") as one:
        await one.build(context(directory / "many", _MANY))
        await one.published(1)
        assert await one.stop() == 0
    return store


async def _finds(directory: Path, store: Path) -> None:
    """The next pod, on a large disk, starts from the newest generation."""
    async with pod(directory / "next", f"--store={store}", "--restore=complete") as one:
        state = await one.status()
        assert state["restored"]["number"] == len(Stored(store).heads)
        await one.build(context(directory / "small", _SMALL))
        assert await one.stop() == 0


async def _free(here: Machine) -> int:
    answer = await here.shell('stat --file-system --format="%a %S" $1')
    blocks, size = answer.out.split()
    return int(blocks) * int(size)


async def _until(here: Machine, enough: Callable[[int], bool], within: float = PATIENCE) -> None:
    async with asyncio.timeout(within):
        while not enough(await _free(here)):  # noqa: ASYNC110 - nobody tells of a change
            await asyncio.sleep(0.1)


def _nothing_fetched_now(state: State) -> bool:
    fetches = [span for span in state["timeline"] if span["kind"] == "fetch"]
    return bool(fetches) and all(span["end"] is not None for span in fetches)
