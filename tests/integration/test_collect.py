"""The store is collected while pods use it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from buildsvc.cache.packs import pack_name
from tests.integration.commands import PATIENCE, command
from tests.integration.contexts import BASE, context, write
from tests.integration.objects import Objects, Request, objects, undisturbed
from tests.integration.sidecars import Pod, pod
from tests.integration.stored import Stored

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

DOCKERFILE = (
    BASE
    + """\
COPY fixed /fixed
RUN cat /fixed > /copy
COPY revision /revision
RUN cat /revision > /sum
"""
)


class Store:
    """A directory that pods reach over HTTP and the collector as it is."""

    def __init__(self, server: Objects) -> None:
        self.server = server
        self.stored = Stored(server.directory)

    async def collect(self) -> dict[str, Any]:
        """Delete all but the newest generation, however young, and say what was deleted."""
        ended = await command(
            sys.executable, "-m", "buildsvc", "cache", "gc", self.server.directory,
            "--keep-last=1", "--min-age=0s", "--settle=0s", "--json",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        document: dict[str, Any] = json.loads(ended.out)
        return document

    def check(self) -> None:
        """Everything that the newest head names is there, and nothing else."""
        newest = self.stored.root(len(self.stored.heads))
        named = {pack_name(pack.digest) for pack in newest.packs}
        there = {name for name in self.server.names if name.startswith("packs/")}
        assert there == named


class Gate:
    """Lets the first request to write such a name wait."""

    def __init__(self, server: Objects, prefix: str) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        self._server = server
        self._prefix = prefix
        server.hook = self._watch

    async def _watch(self, request: Request) -> None:
        if request.writes and not request.done and request.name.startswith(self._prefix):
            self._server.hook = undisturbed
            self.reached.set()
            await self.opened.wait()

    async def pod_waits(self) -> None:
        """A pod wants to write it."""
        async with asyncio.timeout(PATIENCE):
            await self.reached.wait()


async def build(place: Path, one: Pod, revision: int) -> None:
    write(place, {"revision": f"{revision}\n"})
    await one.build(place)


@pytest.mark.parametrize("moment", ["packs/", "roots/", "keys/"])
async def test_a_collection_beside_pods(directory: Path, moment: str) -> None:
    """A pod restores, builds and publishes while collections delete what is not named yet."""
    place = context(directory / "context", DOCKERFILE, {"fixed": "fixed\n", "revision": "0\n"})
    async with objects(directory / "store") as server:
        store = Store(server)
        flag = f"--store={server.url}"
        async with pod(directory / "one", flag) as one:
            for revision in range(3):
                await build(place, one, revision)
                await one.published(revision + 1)
            assert await one.stop() == 0
        assert len(store.stored.heads) == 3
        gate = Gate(server, "leases/")
        async with Pod(directory / "two", flag) as two:
            # It has found a generation and restores it, and does not wait for its lease.
            await gate.pod_waits()
            assert (await store.collect())["deleted"]["roots"] == 2
            await two.ready()
            gate.opened.set()
            assert (await two.status())["restored"]["number"] == 3

            gate = Gate(server, moment)
            await build(place, two, 3)
            await gate.pod_waits()
            # Others go on, until what this pod has stored already is collected.
            async with pod(directory / "other", flag) as other:
                await build(place, other, 4)
                await other.published(5)
                assert await other.stop() == 0
            collected = await store.collect()
            assert moment == "packs/" or collected["deleted"]["packs"] > 0
            newest = len(store.stored.heads)
            gate.opened.set()
            state = await two.published(newest + 1)
            assert state["epoch"] == 1
            assert await two.stop() == 0
        write(place, {"revision": "3\n"})
        async with pod(directory / "three", flag, "--restore=complete", "--publish=never") as three:
            assert (await three.status())["restored"]["number"] == len(store.stored.heads)
            assert (await three.build(place)).ran == []
            assert ((await three.export(place)) / "sum").read_text() == "3\n"
            assert await three.stop() == 0
        # The terms of the pods' leases end.
        await asyncio.to_thread(shutil.rmtree, server.directory / "leases")
        await store.collect()
        store.check()
