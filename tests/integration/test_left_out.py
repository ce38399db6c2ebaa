"""What the format cannot hold is left out, and everything else is published."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildsvc.cache.trees import MAX_FILE
from tests.integration.contexts import BASE, context, write
from tests.integration.memory import in_memory
from tests.integration.sidecars import pod
from tests.integration.stored import Stored

pytestmark = pytest.mark.integration

_ROOM = 1 << 30
#: A file that is larger than the format's, and takes no room.
_HUGE = f"truncate -s {MAX_FILE + 4096} huge"


@pytest.fixture
def memory(machine: None) -> Iterator[Path]:  # noqa: ARG001
    """A directory that can hold such a file: ext4 cannot."""
    with in_memory(_ROOM) as directory:
        try:
            os.truncate(_touched(directory / "huge"), MAX_FILE + 4096)
        except OSError:
            pytest.skip("needs a file system in memory")
        yield directory


def _touched(path: Path) -> Path:
    path.touch()
    return path


async def test_a_cache_mount_beyond_the_limits_comes_back_as_it_was(memory: Path) -> None:
    mount = "--mount=type=cache,target=/c"
    place = context(
        memory / "context",
        BASE + "COPY f /f\n" + f"RUN {mount} sh /f; cat /c/log > /log\n" + "COPY g /g\n",
        {"f": "echo kept > /c/log\n", "g": "1\n"},
    )
    store = Stored(memory / "store")
    flag = f"--store={store.directory}"
    async with pod(memory / "one", flag) as one:
        await one.build(place)
        assert (await one.checkpoint())["published"]
        assert await one.stop() == 0
    write(place, {"f": f"echo new > /c/log; cd /c; {_HUGE}\n"})
    async with pod(memory / "two", flag) as two:
        assert ((await two.export(place)) / "log").read_text() == "new\n"
        report = await two.checkpoint()
        assert report["published"], report
        assert (await two.status())["by"]["left_out"]["cache-mount"] > 0
        assert "left out of the cache" in two.log
        assert await two.stop() == 0
    store.check()
    write(place, {"f": "true\n"})
    async with pod(memory / "three", flag) as three:
        assert ((await three.export(place)) / "log").read_text() == "kept\n"
        assert await three.stop() == 0


async def test_a_layer_beyond_the_limits_stops_nothing_else(memory: Path) -> None:
    place = context(
        memory / "context",
        BASE + "RUN echo below > /below\n" + f"RUN cd /; {_HUGE}\n" + "RUN echo above > /above\n",
        {},
    )
    other = context(memory / "other", BASE + "RUN echo other > /other\n", {})
    store = Stored(memory / "store")
    flag = f"--store={store.directory}"
    async with pod(memory / "one", flag) as one:
        await one.build(other)
        await one.build(place)
        report = await one.checkpoint()
        assert report["published"], report
        assert (await one.status())["by"]["left_out"] == {"layer": 1}
        # The daemon goes on; what it has lost is built again.
        await one.build(place)
        assert await one.stop() == 0
    store.check()
    async with pod(memory / "two", flag) as two:
        assert (await two.build(other)).ran == []
        build = await two.build(place)
        assert [step for step in build.ran if "below" in step] == []
        assert [step for step in build.ran if "above" in step] != []
        assert await two.stop() == 0


@pytest.mark.parametrize("levels", [40, 400])
async def test_directories_deeper_than_a_path_can_name(directory: Path, levels: int) -> None:
    """Deeper than PATH_MAX is kept; beyond the format's paths it is left out."""
    name = "d" * 200
    # `cd -P` goes down by the last name alone.
    deeper = f"i=0; while [ $i -lt {levels} ]; do mkdir {name} && cd -P {name}; i=$((i+1)); done"
    place = context(
        directory / "context",
        BASE + f"COPY f /f\nRUN --mount=type=cache,target=/c cd /c; {deeper}; echo deep > file\n",
        {"f": "1\n"},
    )
    store = Stored(directory / "store")
    flag = f"--store={store.directory}"
    async with pod(directory / "one", flag) as one:
        await one.build(place)
        report = await one.checkpoint()
        assert report["published"], report
        left_out = (await one.status())["by"].get("left_out", {})
        assert ("cache-mount" in left_out) == (levels == 400)
        assert await one.stop() == 0
    store.check()
    down = f"i=0; while cd -P {name} 2>/dev/null; do i=$((i+1)); done; echo $i levels; cat file"
    write(place, {"Dockerfile": BASE + f"RUN --mount=type=cache,target=/c cd /c; {down} || true\n"})
    async with pod(directory / "two", flag) as two:
        build = await two.build(place)
        assert re.findall(r"\b(\d+) levels$", build.output, re.MULTILINE)[-1:] == (
            ["0"] if levels == 400 else [str(levels)]
        )
        assert ("deep" in build.output.split()) == (levels == 40)
        assert await two.stop() == 0
