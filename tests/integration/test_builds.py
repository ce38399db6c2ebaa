"""Builds through a restored daemon: cached as on a warm one, and never of other content."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.buildctl import Build
from tests.integration.contexts import BASE, context, write
from tests.integration.exports import files
from tests.integration.sidecars import Pod, pod

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

SECRET = "correct-horse-battery-staple-7193"

#: What pod 1 builds: a Dockerfile and its files by name.
SCENES: dict[str, tuple[str, Mapping[str, str | bytes]]] = {
    "copy": (
        BASE + "COPY a b /x/\nRUN cat /x/a /x/b > /ab\nCOPY last /last\nRUN cat /last /ab > /all\n",
        {"a": "A\n", "b": "B\n", "last": "one\n"},
    ),
    "link": (
        BASE
        + "COPY --link a /deep/er/a\nCOPY --link dir /deep\nRUN cat /deep/er/a /deep/b > /ab\n",
        {"a": "A\n", "dir/b": "B\n"},
    ),
    "stages": (
        BASE
        + "FROM base AS builder\nCOPY source /source\n"
        + "RUN mkdir -p /made && tr a-z A-Z < /source > /made/product && head -c 300000 "
        + "/dev/urandom > /made/random\n"
        + "FROM base\nCOPY --from=builder /made /made\nCOPY conf /conf\n"
        + "RUN cat /made/product /conf > /both\n",
        {"source": "source\n", "conf": "conf 1\n"},
    ),
    # The builder's last ref is used by one COPY only and stays unfinalized: an active snapshot.
    "unfinalized": (
        BASE
        + "FROM base AS builder\n"
        + "RUN head -c 100000 /dev/urandom > /only && mkdir /d && cp /only /d\n"
        + "FROM scratch\nCOPY --from=builder /only /only\nCOPY more /more\n",
        {"more": "more 1\n"},
    ),
    "bind": (
        BASE
        + "FROM base\nCOPY n /n\nRUN --mount=type=bind,source=src,target=/src "
        + "--mount=type=bind,from=base,source=/bin,target=/tools "
        + "/tools/cat /src/deep/f /n > /out\n",
        {"src/deep/f": "bound\n", "n": "1\n"},
    ),
    "cache": (
        BASE
        + "FROM base\nCOPY n /n\n"
        + "RUN --mount=type=cache,target=/c,sharing=locked cat /n >> /c/log && "
        + "cp /c/log /log\n"
        + "RUN --mount=type=cache,id=filled,target=/f,from=base,source=/bin "
        + "test -e /f/busybox && cat /n >> /f/log && cp /f/log /filled\n",
        {"n": "first\n"},
    ),
    "secret": (
        BASE
        + "COPY n /n\nRUN --mount=type=secret,id=token sha256sum < /run/secrets/token > /sum\n",
        {"n": "public-marker-of-the-secret-scene\n"},
    ),
    "layers": (
        # A hundred and twenty: copies are the cheap ones.
        BASE
        + "".join(f"COPY piece /layer-{n:03}\n" for n in range(107))
        + "".join(f"RUN echo {n} > /layer-{n:03}\n" for n in range(107, 117))
        + "COPY end /end\n",
        {"end": "1\n", "piece": "piece\n"},
    ),
    "whiteouts": (
        BASE
        + "RUN mkdir -p /d/sub /o/old /r && echo 1 > /d/gone && echo 2 > /d/stays && "
        + "echo 3 > /o/old/hidden && echo 4 > /r/before && echo 5 > /d/sub/x\n"
        + "RUN rm /d/gone && rm -r /o && mkdir /o && echo new > /o/new && mv /r/before /r/after && "
        + "mv /d/sub /d/moved\n"
        + "COPY n /n\nRUN find /d /o /r | sort > /list\n",
        {"n": "1\n"},
    ),
}


@dataclass(frozen=True)
class Seed:
    """What pod 1 left: a store of one moment, contexts, and what the images held."""

    store: Path
    contexts: Path
    expected: dict[str, dict[str, object]]

    def context(self, name: str) -> Path:
        return self.contexts / name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seed(shared: Path) -> Seed:
    """Pod 1: builds everything, publishes, ends."""
    contexts = shared / "contexts"
    expected = {}
    async with pod(shared / "one", f"--store={shared / 'store'}") as one:
        for name, (dockerfile, sources) in SCENES.items():
            context(contexts / name, dockerfile, sources)
            exported = await one.export(contexts / name, *options(shared, name))
            expected[name] = files(exported)
        assert await one.stop() == 0
        assert "published" in one.log
    return Seed(shared / "store", contexts, expected)


def options(base: Path, name: str) -> tuple[str, ...]:
    if name != "secret":
        return ()
    token = base / "token"
    token.write_text(SECRET)
    return (f"--secret=id=token,src={token}",)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def restored(seed: Seed, shared: Path) -> AsyncIterator[Pod]:
    """Pod 2: an empty root and the store. It publishes nothing, so tests do not meet in it."""
    async with pod(shared / "two", f"--store={seed.store}", "--publish=never") as two:
        state = await two.status()
        assert state["restored"]
        assert state["cold_reason"] is None
        yield two


@pytest.mark.parametrize("name", SCENES)
async def test_an_unchanged_build_is_cached_and_exports_the_same_files(
    name: str, seed: Seed, restored: Pod, shared: Path
) -> None:
    build = await restored.build(seed.context(name), *options(shared, name))
    assert build.ran == []
    assert len(build.cached) == SCENES[name][0].count("\nCOPY") + SCENES[name][0].count("\nRUN")
    exported = await restored.export(seed.context(name), *options(shared, name))
    assert files(exported) == seed.expected[name]


async def rebuilt(pod: Pod, seed: Seed, name: str, change: Mapping[str, str]) -> tuple[Build, Path]:
    """Build a changed copy of a scene; its build and what the image holds."""
    copy = seed.contexts / f"{name}-changed"
    shutil.copytree(seed.context(name), copy, dirs_exist_ok=True)
    write(copy, change)
    place = pod.root.with_name(f"{name}-changed.out")
    shutil.rmtree(place, ignore_errors=True)
    extra = options(pod.root.parent, name)
    return await pod.build(copy, f"--output=type=local,dest={place}", *extra), place


async def test_a_changed_line_rebuilds_its_steps_only(seed: Seed, restored: Pod) -> None:
    build, place = await rebuilt(restored, seed, "copy", {"last": "two\n"})
    assert sorted(build.ran) == ["COPY last /last", "RUN cat /last /ab > /all"]
    assert (place / "all").read_text() == "two\nA\nB\n"


async def test_a_changed_linked_copy_lies_over_restored_layers(seed: Seed, restored: Pod) -> None:
    build, place = await rebuilt(restored, seed, "link", {"dir/b": "other\n"})
    assert "COPY --link a /deep/er/a" in build.cached
    assert (place / "ab").read_text() == "A\nother\n"


async def test_a_changed_last_stage_takes_the_builders_files_from_the_cache(
    seed: Seed, restored: Pod
) -> None:
    build, place = await rebuilt(restored, seed, "stages", {"conf": "conf 2\n"})
    assert sorted(build.ran) == ["COPY conf /conf", "RUN cat /made/product /conf > /both"]
    assert (place / "both").read_text() == "SOURCE\nconf 2\n"
    assert files(place)["made/random"] == seed.expected["stages"]["made/random"]


async def test_a_ref_that_was_never_finalized_comes_back(seed: Seed, restored: Pod) -> None:
    # The copied directory is new, so the builder's own snapshot must be read.
    changed = SCENES["unfinalized"][0] + "COPY --from=builder /d /d\n"
    build, place = await rebuilt(restored, seed, "unfinalized", {"Dockerfile": changed})
    assert build.ran == ["COPY --from=builder /d /d"]
    assert (place / "d/only").read_bytes() == (place / "only").read_bytes()
    assert files(place)["only"] == seed.expected["unfinalized"]["only"]


async def test_cache_mounts_keep_their_content(seed: Seed, restored: Pod) -> None:
    _, place = await rebuilt(restored, seed, "cache", {"n": "second\n"})
    assert (place / "log").read_text() == "first\nsecond\n"
    assert (place / "filled").read_text() == "first\nsecond\n"


async def test_bind_mounts_read_restored_and_changed_files(seed: Seed, restored: Pod) -> None:
    build, place = await rebuilt(restored, seed, "bind", {"src/deep/f": "rebound\n"})
    assert len(build.ran) == 1
    assert (place / "out").read_text() == "rebound\n1\n"


async def test_a_step_over_a_hundred_restored_layers(seed: Seed, restored: Pod) -> None:
    changed = SCENES["layers"][0] + "RUN cat /layer-* | wc -l > /count\n"
    build, place = await rebuilt(restored, seed, "layers", {"Dockerfile": changed, "end": "2\n"})
    assert len(build.ran) == 2
    assert (place / "count").read_text().strip() == "117"


async def test_deleted_and_renamed_files_stay_so(seed: Seed, restored: Pod) -> None:
    build, place = await rebuilt(restored, seed, "whiteouts", {"n": "2\n"})
    assert len(build.ran) == 2
    listed = (place / "list").read_text().split()
    assert listed == [
        *("/d", "/d/moved", "/d/moved/x", "/d/stays", "/o", "/o/new", "/r", "/r/after")
    ]


async def test_builds_at_once_share_restored_layers(seed: Seed, shared: Path) -> None:
    async with pod(shared / "many", f"--store={seed.store}", "--publish=never") as many:
        names = ("copy", "stages", "layers", "whiteouts")
        changes: list[dict[str, str]] = [
            {"last": "4\n"},
            {"conf": "4\n"},
            {"end": "4\n"},
            {"n": "4\n"},
        ]
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(rebuilt(many, seed, name, change))
                for name, change in zip(names, changes, strict=True)
            ]
        places = [task.result()[1] for task in tasks]
    assert (places[0] / "all").read_text() == "4\nA\nB\n"
    assert (places[1] / "both").read_text() == "SOURCE\n4\n"
    assert (places[2] / "end").read_text() == "4\n"
    assert "/d/gone" not in (places[3] / "list").read_text().split()
