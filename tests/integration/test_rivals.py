"""Two pods of one key die at once, each while it publishes: nothing is half published."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.commands import PATIENCE
from tests.integration.objects import Objects, Request, objects, undisturbed
from tests.integration.seed import Seed
from tests.integration.sidecars import Pod
from tests.integration.steady import Project
from tests.integration.stored import Stored

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]


@dataclass(frozen=True)
class Moment:
    """Something is to be written to the store; ``done``: it has been, and nobody was told."""

    prefix: str
    done: bool = False

    def __str__(self) -> str:
        return f"{self.prefix.rstrip('/')}-{'stored' if self.done else 'offered'}"


PACK, PACKED = Moment("packs/"), Moment("packs/", done=True)
ROOT, ROOTED = Moment("roots/"), Moment("roots/", done=True)
HEAD, HEADED = Moment("keys/"), Moment("keys/", done=True)


class Rival:
    """A pod with a way to the store of its own, which is killed at its moment."""

    def __init__(self, pod: Pod, store: Objects, moment: Moment) -> None:
        self.pod = pod
        self.reached = asyncio.Event()
        self.other = self
        self._store = store
        self._moment = moment
        store.hook = self._watch

    async def _watch(self, request: Request) -> None:
        moment = self._moment
        if not request.writes or request.done != moment.done:
            return
        if request.name.startswith(moment.prefix):
            self._store.hook = undisturbed
            self.reached.set()
            async with asyncio.timeout(PATIENCE):
                await self.other.reached.wait()
            assert self.pod.process is not None
            self.pod.process.kill()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (PACK, PACKED),
        (PACKED, HEADED),
        (ROOT, ROOTED),
        (ROOTED, HEAD),
        (HEAD, HEAD),
        (HEAD, HEADED),
        (HEADED, HEADED),
    ],
    ids=str,
)
async def test_two_deaths_at_once(one: Moment, two: Moment, directory: Path, seeded: Seed) -> None:
    place = directory / "store"
    await asyncio.to_thread(shutil.copytree, seeded.store, place)
    async with objects(place) as first, objects(place) as second:
        a = Pod(directory / "a", f"--store={first.url}")
        b = Pod(directory / "b", f"--store={second.url}")
        async with a, b:
            await _publish_and_die(directory, Rival(a, first, one), Rival(b, second, two))
        stored = Stored(place)
        stored.check()
        won = len(stored.heads) - 1
        assert 0 <= won <= 2
        if HEADED in (one, two):
            assert won
        await _next_pod(directory, first, won)


async def _publish_and_die(directory: Path, one: Rival, two: Rival) -> None:
    """Both build a change of their own and are killed together; the builds have succeeded."""
    one.other, two.other = two, one
    async with asyncio.TaskGroup() as tasks:
        for revision, rival in enumerate((one, two), start=1):
            tasks.create_task(_build(directory, rival, revision))
    for rival in (one, two):
        assert await rival.pod.ended() == -9


async def _build(directory: Path, rival: Rival, revision: int) -> None:
    await rival.pod.ready()
    project = Project(directory / f"context-{revision}")
    build, archive = await project.build(rival.pod, revision)
    build.ok()
    project.check(archive, revision)


async def _next_pod(directory: Path, store: Objects, won: int) -> None:
    """The next pod has the newest generation whole: of revision 0, or of a rival's."""
    async with Pod(directory / "next", f"--store={store.url}") as pod:
        await pod.ready()
        state = await pod.status()
        assert state["restored"], state["cold_reason"]
        assert state["restored"]["number"] == won + 1
        project = Project(directory / "context")
        ran = []
        for revision in (1, 2, 0):
            build, archive = await project.build(pod, revision)
            ran.append(build.ok().ran)
            project.check(archive, revision)
        assert ([] in ran[:2]) is bool(won)
        assert ran[2] == []
        state = await pod.status()
        assert state["epoch"] == 1
        assert "errors" not in state["by"]
        assert await pod.stop() == 0
