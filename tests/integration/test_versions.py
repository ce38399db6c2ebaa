"""Two versions on one store: each reads what it can, or goes cold once and says so.

Publishing continues the log of generations and overwrites nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.roots import encode_root, root_name
from tests.integration.memory import in_memory
from tests.integration.seed import KEY, Seed
from tests.integration.sidecars import Pod, State, pod
from tests.integration.steady import Project

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

_ROOM = 2 << 30
_NEWER = 2
_TEXT = "9.9.9"


@pytest.fixture
def store(seeded: Seed) -> Iterator[Path]:
    """A copy of it, in a directory that may hold roots of sidecars beside it."""
    with in_memory(_ROOM) as directory:
        shutil.copytree(seeded.store, directory / "store")
        yield directory / "store"


class Reader:
    """A pod on the store, and what it builds."""

    def __init__(self, one: Pod, project: Project) -> None:
        self.pod = one
        self._project = project

    async def build(self, *, cached: bool) -> State:
        """Build what the store's generation has; return the status when it is published."""
        build, archive = await self._project.build(self.pod, 0)
        assert (build.ok().ran == []) is cached
        self._project.check(archive, 0)
        return await self.pod.until(lambda state: bool(state["published"]))


@asynccontextmanager
async def reader(store: Path, name: str, *flags: str) -> AsyncIterator[Reader]:
    async with pod(store.parent / name, f"--store={store}", *flags) as one:
        yield Reader(one, Project(store.parent / "context"))


def head(store: Path, number: int) -> Path:
    return store / KEY.head_name(number)


def write_newer_head(store: Path, number: int) -> bytes:
    """A head as a later buildsvc would write it: with a version and fields that nobody knows."""
    made = cache_pb2.Head(
        format_version=_NEWER, key=KEY.text, number=number, buildsvc_version=_TEXT
    )
    # Field 1000, of one byte.
    data = made.SerializeToString() + b"\xc0\x3e\x01"
    head(store, number).parent.mkdir(parents=True, exist_ok=True)
    head(store, number).write_bytes(data)
    return data


async def test_a_newer_head_is_passed_over_and_continued(store: Path) -> None:
    newer = write_newer_head(store, 2)
    async with reader(store, "pod") as it:
        state = await it.build(cached=True)
        assert state["restored"]["number"] == 1
        assert state["published"]["number"] == 3
        assert "cold_starts" not in state["by"]
    assert head(store, 2).read_bytes() == newer
    written = cache_pb2.Head.FromString(head(store, 3).read_bytes())
    assert written.number == 3
    # What the parent holds is not known to this version: it names none.
    assert written.parent == b""


async def test_only_newer_heads_are_a_cold_start_that_says_so(store: Path) -> None:
    newer = write_newer_head(store, 1)
    async with reader(store, "first", "--http-listen=127.0.0.1:0") as it:
        state = await it.build(cached=False)
        assert state["by"]["cold_starts"] == {"unsupported-format": 1}
        assert _TEXT in state["cold_reason"]
        assert await it.pod.metric("buildsvc_sidecar_cold_starts_total") == 1
        assert state["published"]["number"] == 2
        assert await it.pod.stop() == 0
    assert head(store, 1).read_bytes() == newer
    # It went cold once: the next pod of this version has its own generation.
    async with reader(store, "second") as it:
        state = await it.build(cached=True)
        assert state["restored"]["number"] == 2
        assert "cold_starts" not in state["by"]


async def test_a_newer_root_under_a_head_that_can_be_read(store: Path) -> None:
    """The older of two versions meets a generation whose Root alone has changed."""
    old = cache_pb2.Head.FromString(head(store, 1).read_bytes())
    digest, stored = encode_root(cache_pb2.Root(format_version=_NEWER))
    (store / root_name(digest)).write_bytes(stored)
    old.number, old.root, old.nonce = 2, digest, b"n" * 16
    head(store, 2).write_bytes(old.SerializeToString())
    async with reader(store, "pod") as it:
        state = await it.build(cached=True)
        assert state["restored"]["number"] == 1
        assert state["published"]["number"] == 3
        assert "cold_starts" not in state["by"]


async def test_fields_that_a_later_writer_added_are_no_obstacle(store: Path) -> None:
    """The same format version with fields that this reader does not know."""
    head(store, 1).write_bytes(head(store, 1).read_bytes() + b"\xc0\x3e\x01")
    async with reader(store, "pod") as it:
        state = await it.build(cached=True)
        assert state["restored"]["number"] == 1


async def test_another_buildkit_has_a_cache_of_its_own(store: Path) -> None:
    """A daemon that says it is of the next minor version; all else is the same."""
    real = shutil.which("buildkitd")
    assert real
    other = store.parent / "buildkitd-next"
    other.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec echo buildkitd x v0.34.0 y\nexec "{real}" "$@"\n'
    )
    other.chmod(0o755)
    before = {path: path.read_bytes() for path in head(store, 1).parent.iterdir()}
    async with reader(store, "next", f"--buildkitd={other}") as it:
        state = await it.build(cached=False)
        assert state["by"]["cold_starts"] == {"no-generation": 1}
        assert state["published"]["number"] == 1
        assert await it.pod.stop() == 0
    assert {path: path.read_bytes() for path in head(store, 1).parent.iterdir()} == before
    # Each goes on with its own.
    async with reader(store, "this") as it:
        assert (await it.build(cached=True))["published"]["number"] == 2
    async with reader(store, "next-again", f"--buildkitd={other}") as it:
        assert (await it.build(cached=True))["published"]["number"] == 2


async def test_a_head_of_another_key_is_not_taken_for_ones_own(store: Path) -> None:
    """As when somebody copies heads from one key's directory to another's."""
    moved = cache_pb2.Head.FromString(head(store, 1).read_bytes())
    moved.key = KEY.text.replace("default", "other", 1)
    head(store, 1).write_bytes(moved.SerializeToString())
    async with reader(store, "pod") as it:
        state = await it.build(cached=False)
        assert sum(state["by"]["cold_starts"].values()) == 1
        assert state["published"]["number"] == 2
