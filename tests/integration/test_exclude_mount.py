"""Excluded cache mounts: nothing of them is stored, they begin empty, and all else is cached."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.integration.contexts import BASE, context, write
from tests.integration.sidecars import pod
from tests.integration.stored import Stored

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

_STEP = (
    "RUN --mount=type=cache,target=/secrets "
    "--mount=type=cache,id=tokens,target=/t,uid=1000 "
    "--mount=type=cache,target=/kept sh /f\n"
)
_EXCLUDE = ("--exclude-mount=/secret*", "--exclude-mount=tokens")
#: Made by the step, so that it is in no layer and in no log.
_WRITE = "for d in secrets t kept; do echo {0}-$d | md5sum > /$d/{0}; done\n"
_LIST = "for d in secrets t kept; do ls /$d | sed s,^,/$d/,; done; stat -c owner=%u /t\n"


def secret(name: str, where: str) -> bytes:
    return hashlib.md5(f"{name}-{where}\n".encode()).hexdigest().encode()


def stored(store: Stored, name: str) -> set[str]:
    """The directories whose secret of that name is somewhere in the store."""
    contents = list(store.contents())
    return {
        where
        for where in ("secrets", "t", "kept")
        if any(secret(name, where) in content for content in contents)
    }


@pytest.fixture
def source(directory: Path) -> Path:
    dockerfile = BASE + "RUN echo layer > /layer\nCOPY f /f\n" + _STEP
    return context(directory / "context", dockerfile, {"f": _WRITE.format("one")})


async def test_nothing_of_an_excluded_mount_is_stored(directory: Path, source: Path) -> None:
    store = Stored(directory / "store")
    flags = (f"--store={store.directory}", *_EXCLUDE)
    async with pod(directory / "one", *flags) as one:
        await one.build(source)
        report = await one.checkpoint()
        assert report["published"], report
        # Again, after a checkpoint, and by what it does at its end.
        write(source, {"f": _LIST + _WRITE.format("two")})
        build = await one.build(source)
        assert build.output.split() == ["/secrets/one", "/t/one", "/kept/one", "owner=1000"]
        assert await one.stop() == 0
        assert stored(store, "one") == stored(store, "two") == {"kept"}
        assert "excluded from the cache" in one.log
    store.check()

    async with pod(directory / "two", *flags) as two:
        assert (await two.build(source)).ran == []
        write(source, {"f": _LIST + _WRITE.format("three")})
        build = await two.build(source)
        assert len(build.ran) == 2, build.ran
        assert build.output.split() == ["/kept/one", "/kept/two", "owner=1000"]
        assert await two.stop() == 0
    assert stored(store, "three") == {"kept"}


async def test_a_mount_that_was_published_before_is_not_restored(
    directory: Path, source: Path
) -> None:
    store = Stored(directory / "store")
    flag = f"--store={store.directory}"
    async with pod(directory / "one", flag) as one:
        await one.build(source)
        assert (await one.checkpoint())["published"]
        assert await one.stop() == 0
    assert stored(store, "one") == {"secrets", "t", "kept"}
    before = len(store.heads)

    async with pod(directory / "two", flag, *_EXCLUDE) as two:
        assert (await two.build(source)).ran == []
        # Not even used, they are not published again.
        assert (await two.checkpoint())["published"]
        write(source, {"f": _LIST})
        build = await two.build(source)
        assert build.output.split() == ["/kept/one", "owner=1000"]
        assert await two.stop() == 0
    assert len(store.heads) > before
    write(source, {"f": _LIST + "true\n"})
    async with pod(directory / "three", flag) as three:
        build = await three.build(source)
        assert build.output.split() == ["/kept/one", "owner=1000"]
        assert await three.stop() == 0
