"""A store that dies or refuses. The build succeeds and its image is right."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from tests.integration.objects import Request, undisturbed
from tests.integration.seed import Seed
from tests.integration.served import (
    after_databases,
    fetches,
    root_of,
    scene,
    silent_after_databases,
)
from tests.integration.sidecars import pod

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]


async def test_prefetches_that_fail_harm_nobody(directory: Path, seeded: Seed) -> None:
    async with scene(directory, seeded) as it:
        _, root = await root_of(it.store.directory)
        it.store.hook = after_databases(root, lambda: web.Response(status=403))
        async with it.pod() as one:
            await one.ready()
            await one.until(
                lambda state: len(fetches(state, "failed")) == state["objects"]["total"]
            )
            it.store.hook = undisturbed
            state = await it.built(one)
            assert state["epoch"] == 1
            assert state["counts"].get("roots_lost", 0) == 0
            assert state["restored"]["number"] == 1
            assert state["objects"]["demand"] > 0


async def test_a_store_that_dies_costs_one_build(directory: Path, seeded: Seed) -> None:
    async with scene(directory, seeded) as it:
        _, root = await root_of(it.store.directory)
        dead = asyncio.Event()
        it.store.hook = silent_after_databases(root, dead)
        async with it.pod() as one:
            await dead.wait()
            await it.store.die()
            await one.ready()
            build, _ = await it.project.build(one, 0)
            assert build.code
            state = await it.built(one)
            assert state["epoch"] == 2
            assert state["counts"]["roots_lost"] == 1
            assert state["by"]["cold_starts"] == {"root-lost": 1}
            report = await one.checkpoint()
            assert not report["published"]
            assert report["reason"]


async def test_a_store_that_is_dead_from_the_start(directory: Path, seeded: Seed) -> None:
    async with scene(directory, seeded) as it:
        await it.store.die()
        async with it.pod() as one:
            await one.ready()
            state = await it.built(one)
            assert state["by"]["cold_starts"] == {"store-unavailable": 1}


async def test_an_upload_that_is_refused_fails_no_build(directory: Path, seeded: Seed) -> None:
    async with scene(directory, seeded) as it:

        async def full(request: Request) -> web.StreamResponse | None:
            if request.writes and not request.done:
                return web.Response(status=507, text="the bucket is full")
            return None

        it.store.hook = full
        async with it.pod() as one:
            await one.ready()
            it.project.revise(1)
            build, archive = await it.project.build(one, 1)
            build.ok()
            it.project.check(archive, 1)
            report = await one.checkpoint()
            assert not report["published"]
            assert "full" in report["reason"] or "507" in report["reason"]
            assert it.store.heads == [1]
            it.store.hook = undisturbed
            report = await one.checkpoint()
            assert report["published"], report
        async with pod(directory / "next", f"--store={it.store.url}") as after:
            build, archive = await it.project.build(after, 1)
            assert build.ok().ran == []
            it.project.check(archive, 1)


async def test_a_root_is_used_again_after_a_clean_stop(directory: Path, seeded: Seed) -> None:
    async with scene(directory, seeded) as it:
        for generation in (2, 3):
            async with it.pod() as one:
                await one.ready()
                build, archive = await it.project.build(one, 0)
                assert build.ok().ran == []
                it.project.check(archive, 0)
                await one.published(generation)
                assert await one.stop() == 0
                await one.start()
                await one.ready()
                state = await one.status()
                assert state["restored"]["number"] == generation
                assert await one.stop() == 0
                left = [path.name for path in one.epochs]
                assert len(left) == 1, left
