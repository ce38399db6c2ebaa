"""The staging directory of a real restore never holds more than its limit and one segment."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from sidecar.segments import SEGMENT_BYTES
from tests.integration.contexts import BASE, context
from tests.integration.objects import Request, objects
from tests.integration.sidecars import Pod, pod

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

#: The least that is allowed.
_LIMIT = 64 << 20
_LAYER, _LAYERS = 30_000_000, 6
_PROJECT = BASE + "".join(
    f"FROM base AS stage{number}\nRUN head -c {_LAYER} /dev/urandom > /data\n"
    for number in range(_LAYERS)
)
_PROJECT += "FROM base\n" + "".join(
    f"COPY --from=stage{number} /data /data{number}\n" for number in range(_LAYERS)
)
_PROJECT += "COPY revision /revision\nRUN md5sum /data*\n"


def staged(one: Pod) -> int:
    """Bytes of the files that have come from the store and are not unpacked."""
    size = 0
    with suppress(FileNotFoundError), os.scandir(one.root / "epoch-1/staging/down") as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                size += entry.stat().st_size
    return size


async def test_downloads_wait_for_room(directory: Path) -> None:
    """Everything is wanted at once, before the agent is there to take it: the limit holds it."""
    place = context(directory / "context", _PROJECT, {"revision": "1\n"})
    most = 0
    async with objects(directory / "store") as store:
        async with pod(directory / "one", f"--store={store.url}") as one:
            sums = (await one.build(place)).output
            assert await one.stop() == 0
        limits = (f"--staging-limit={_LIMIT}", "--download-concurrency=32", "--unpack-workers=1")
        flags = (f"--store={store.url}", "--restore=complete", *limits)
        two = Pod(directory / "two", *flags)

        async def look(_: Request) -> None:
            nonlocal most
            most = max(most, await asyncio.to_thread(staged, two))

        # Each range that is asked for, or has come, is a moment to look at.
        store.hook = look
        async with two:
            await two.ready()
            (place / "revision").write_text("2\n")
            build = await two.build(place)
            assert build.output == sums
            assert len(build.ran) == 2
            state = await two.until(lambda s: s["objects"]["fetched"] == s["objects"]["total"])
            assert "errors" not in state["by"]
            assert await two.stop() == 0
    assert SEGMENT_BYTES <= most <= _LIMIT + SEGMENT_BYTES
    assert sum(state["by"]["fetched_bytes"].values()) > _LIMIT + 2 * SEGMENT_BYTES
