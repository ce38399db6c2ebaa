"""A copy of the seeded store, served over HTTP, and a pod on it that must build what is right."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.store.local import LocalStore
from sidecar.plan import Plan
from sidecar.segments import cut
from tests.integration.objects import Hook, Objects, Request, objects
from tests.integration.seed import KEY, Seed
from tests.integration.sidecars import Pod, State
from tests.integration.steady import Project


@dataclass
class Scene:
    """A copy of the seeded store, served, and a pod's flags for it."""

    directory: Path
    store: Objects
    project: Project

    @asynccontextmanager
    async def pod(self, *flags: str) -> AsyncIterator[Pod]:
        root = self.directory / "root"
        async with Pod(root, f"--store={self.store.url}", "--demand-timeout=3s", *flags) as one:
            yield one

    async def built(self, one: Pod, revision: int = 0) -> State:
        """Build, once more if the pod says so, and return the status after the success.

        Revision 0 is cached whole and exported from blobs; revision 1 needs layers too.
        """
        build, archive = await self.project.build(one, revision)
        if build.code:
            state = await one.until(lambda s: s["ready"] and s["advice"]["what"] == "run-again")
            assert state["epoch"] == 2, build.text
            build, archive = await self.project.build(one, revision)
        build.ok()
        self.project.check(archive, revision)
        return await one.status()


@asynccontextmanager
async def scene(directory: Path, seeded: Seed) -> AsyncIterator[Scene]:
    await asyncio.to_thread(shutil.copytree, seeded.store, directory / "store")
    async with objects(directory / "store") as store:
        yield Scene(directory, store, Project(directory / "context"))


async def root_of(directory: Path) -> tuple[Generation, cache_pb2.Root]:
    store = LocalStore(directory)
    log = GenerationLog(store, KEY)
    newest = await log.newest()
    assert newest is not None
    root = await log.read_root(newest)
    await store.close()
    return newest, root


def fetches(state: State, outcome: str) -> list[State]:
    return [s for s in state["timeline"] if s["kind"] == "fetch" and s["outcome"] == outcome]


def after_databases(root: cache_pb2.Root, act: Callable[[], web.Response | None]) -> Hook:
    """Return a hook that lets the databases pass and calls ``act`` for every later read."""
    databases = Plan(root).databases
    left = sum(
        len(plan.ranges)
        for part in (databases.tree, databases.data)
        for plan in cut(enumerate(part))
    )

    async def hook(request: Request) -> web.StreamResponse | None:
        nonlocal left
        if request.done or not request.name.startswith("packs/") or request.writes:
            return None
        left -= 1
        return act() if left < 0 else None

    return hook


def silent_after_databases(root: cache_pb2.Root, dead: asyncio.Event) -> Hook:
    """Return a hook that lets the databases pass; at a later read ``dead`` is set, and silence."""

    def die() -> None:
        dead.set()

    let_pass = after_databases(root, die)

    async def hook(request: Request) -> web.StreamResponse | None:
        answer = await let_pass(request)
        if dead.is_set():
            await asyncio.Event().wait()
        return answer

    return hook
