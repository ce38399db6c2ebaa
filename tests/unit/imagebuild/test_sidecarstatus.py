"""Reading the status page: the real model's JSON, over HTTP, and everything that is none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from buildsvc.imagebuild.sidecarstatus import (
    BuildSeen,
    HttpStatus,
    NoStatus,
    Seen,
    StatusPage,
    seen,
)
from sidecar.status import Generation, Phase, Status
from sidecar.timeline import Kind
from tests.unit.imagebuild.fakes import FakeStatus


def status() -> Status:
    """What a sidecar says after a build that lost its root, and one that followed."""
    made = Status(wall=lambda: 1000.0)
    made.restores(Generation("k", "k", 3, 900.0, cold_build_seconds=81.5), objects=40)
    made.enter(Phase.READY)
    fetch = made.begin(Kind.FETCH, "layer", object="layer", why="demand")
    fetch.end(bytes=7)
    made.begin(Kind.BUILD, "lost").end("failed", error="buildkitd died")
    made.lost_root(2, "the agent died")
    made.begin(Kind.BUILD, "ref")
    return made


def test_what_the_sidecar_says() -> None:
    found = seen(json.loads(json.dumps(status().snapshot())))
    assert found is not None
    assert (found.phase, found.ready, found.roots_lost) == ("ready", True, 1)
    assert (found.run_again, found.advice_unix) == (True, 1000.0)
    assert found.advice_detail == "the cache was lost (the agent died)"
    assert (found.cold_build_seconds, found.fetched_bytes) == (81.5, 7)
    assert found.objects["total"] == 40
    assert found.builds == {
        "lost": BuildSeen("failed", "buildkitd died", None, None),
        "ref": BuildSeen("", "", None, None),
    }


def test_the_end_of_a_build() -> None:
    made = Status()
    made.begin(Kind.BUILD, "ref").end("ok", seconds=1, steps_cached=3, steps_total=7, error="")
    found = seen(made.snapshot())
    assert found is not None
    assert found.builds["ref"] == BuildSeen("ok", "", 3, 7)
    assert (found.roots_lost, found.run_again, found.cold_build_seconds) == (0, False, 0.0)


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": 2}', '{"schema": 1}'])
def test_other_json(text: str) -> None:
    assert seen(json.loads(text)) is None


@asynccontextmanager
async def served(body: str, code: int = 200) -> AsyncIterator[str]:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=body, status=code)

    async with serving(answer) as url:
        yield url


@asynccontextmanager
async def serving(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_get("/status", answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_the_page_and_the_fake_say_the_same() -> None:
    made = status()
    expected = seen(made.snapshot())

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(made.snapshot(since=int(request.query.get("since", 0))))

    async with serving(answer) as url:
        pages: list[StatusPage] = [HttpStatus(url), FakeStatus([expected])]
        for page in pages:
            for _ in range(2):
                found = await page.read()
                assert isinstance(found, Seen)
                assert found.builds == (expected.builds if expected else None)
            without = await page.read(builds=False)
            assert without is not None
            assert (without.builds, without.roots_lost) == ({}, 1)


@pytest.mark.parametrize(("body", "code"), [("no JSON", 200), ("[1]", 200), ("{}", 503)])
async def test_pages_that_are_no_status(body: str, code: int) -> None:
    async with served(body, code) as url:
        assert await HttpStatus(url).read() is None
    # Nobody listens any more.
    assert await HttpStatus(url).read() is None
    assert await NoStatus().read() is None
