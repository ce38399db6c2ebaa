"""The step and its sidecar: waiting, mutual TLS, a lost cache, a head start, and what is said."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import Registries
from tests.integration.contexts import BASE, context, write
from tests.integration.exports import pulled
from tests.integration.seed import Seed
from tests.integration.served import root_of, scene, silent_after_databases
from tests.integration.sidecars import Pod, pod
from tests.integration.steps import HTTP, beside, result, start_step, step

pytestmark = pytest.mark.integration

#: Waits as long as the file says so: the test decides how a build goes on.
GATED = BASE + (
    "COPY gate /gate\nRUN echo went-$(cat /gate); if test $(cat /gate) = slow; then sleep 600; fi\n"
)


@pytest.fixture
def image(registries: Registries) -> list[str]:
    """Flags for an image in a registry of one test."""
    host = registries.start(f"of-one-{os.urandom(4).hex()}")
    return [f"--repository={host}/app", "--version=1", "--registry-insecure"]


async def test_it_waits_for_a_sidecar_that_is_still_to_come(
    directory: Path, image: list[str]
) -> None:
    """With mutual TLS: the endpoint file and the certificates appear with the sidecar."""
    app = context(directory / "context", BASE)
    volume = directory / "volume"
    volume.mkdir()
    endpoint = volume / "endpoint.json"
    running = await start_step(
        directory, *image, f"--endpoint-file={endpoint}", f"--context={app}", "--status-url=off",
    )  # fmt: skip
    await running.says(f"there is no endpoint file {endpoint}")
    flags = ("--network=host", f"--endpoint-file={endpoint}")
    async with pod(directory / "one", *flags, f"--tls-client-dir={volume / 'tls'}") as one:
        assert (await one.status())["endpoint"]["tls"]
        done = await running.end()
        assert done.code == 0, done.err
        assert "the sidecar is ready after" in done.err


async def test_no_sidecar(directory: Path) -> None:
    app = context(directory / "context", BASE)
    done = await step(
        directory, "--push=off", f"--context={app}", "--address=tcp://127.0.0.1:9", "--wait=1s"
    )
    assert done.code == 69, done.err
    assert "expected: an answer within 1 s (--wait)" in done.err
    assert "what to do: look whether the pod has the sidecar's container" in done.err


async def test_a_lost_cache_makes_it_run_once_more(directory: Path, image: list[str]) -> None:
    app = context(directory / "context", GATED, {"gate": "slow"})
    async with pod(directory / "one", HTTP) as one:
        running = await start_step(
            directory, *image, *await beside(one), f"--context={app}",
            f"--result-file={directory / 'result.json'}",
        )  # fmt: skip
        await running.says("went-slow")
        write(app, {"gate": "fast"})
        os.kill(one.agent(), signal.SIGKILL)
        done = await running.end()
        assert done.code == 0, done.err
        assert "the build's failure is not its own; running it again" in done.err
        assert "went-fast" in done.err
        assert "the build ran 2 times, because the cache was lost" in done.err
        assert result(directory / "result.json")["attempts"] == 2


async def test_a_store_that_dies_costs_one_more_run(
    directory: Path, seeded: Seed, image: list[str]
) -> None:
    """The build fails first, of what it waits for; then the sidecar gives the cache up."""
    async with scene(directory, seeded) as it:
        _, root = await root_of(it.store.directory)
        dead = asyncio.Event()
        it.store.hook = silent_after_databases(root, dead)
        async with it.pod(HTTP) as one:
            await dead.wait()
            await it.store.die()
            await one.ready()
            it.project.revise(0)
            done = await step(
                directory, *image, *await beside(one), f"--context={it.project.directory}",
                f"--output=type=oci,dest={directory / 'image.tar'}",
            )  # fmt: skip
            assert done.code == 0, done.err
            assert "running it again" in done.err
            it.project.check(directory / "image.tar", 0)
            assert (await one.status())["counts"]["roots_lost"] == 1


async def test_a_second_loss_is_the_builds_end(directory: Path, image: list[str]) -> None:
    app = context(directory / "context", GATED, {"gate": "slow"})
    async with pod(directory / "one", HTTP) as one:
        running = await start_step(
            directory, *image, *await beside(one), f"--context={app}",
        )  # fmt: skip
        await running.says("went-slow")
        os.kill(one.agent(), signal.SIGKILL)
        await running.says("running it again")
        await one.until(_builds_again)
        os.kill(one.agent(), signal.SIGKILL)
        done = await running.end()
        assert done.code == 1, done.err
        assert done.err.count("running it again") == 1


def _builds_again(state: dict[str, object]) -> bool:
    spans = state["timeline"]
    assert isinstance(spans, list)
    return sum(span["kind"] == "build" for span in spans) == 2 and any(
        span["kind"] == "build" and span["end"] is None for span in spans
    )


async def test_a_daemon_that_dies_by_itself_is_no_lost_cache(
    directory: Path, image: list[str]
) -> None:
    app = context(directory / "context", GATED, {"gate": "slow"})
    async with pod(directory / "one", HTTP) as one:
        running = await start_step(
            directory, *image, *await beside(one), f"--context={app}",
        )  # fmt: skip
        await running.says("went-slow")
        (daemon,) = one.children("buildkitd --config")
        os.kill(daemon, signal.SIGKILL)
        done = await running.end()
        assert done.code == 1, done.err
        assert "running it again" not in done.err


async def test_a_sidecar_that_is_started_again(directory: Path, image: list[str]) -> None:
    app = context(directory / "context", GATED, {"gate": "slow"})
    async with Pod(directory / "one", HTTP) as one:
        await one.ready()
        running = await start_step(
            directory, *image, *await beside(one), f"--context={app}",
        )  # fmt: skip
        await running.says("went-slow")
        await one.kill()
        done = await running.end()
    assert done.code == 1, done.err
    assert "the sidecar ended during the build" in done.err


async def test_the_summary_of_a_build_with_a_cache(directory: Path, image: list[str]) -> None:
    """The second pod knows how long the first one's cold build took."""
    app = context(directory / "context", BASE + "RUN sleep 5; echo 1 > /a\nCOPY f /f\n", {"f": "1"})
    store = f"--store={directory / 'store'}"
    async with pod(directory / "one", HTTP, store) as one:
        first = await step(directory, *image, *await beside(one), f"--context={app}")
        assert first.code == 0, first.err
        assert "saved" not in first.err
        assert await one.stop() == 0
    write(app, {"f": "2"})
    async with pod(directory / "two", HTTP, store) as two:
        flags = [*await beside(two), f"--result-file={directory / 'result.json'}"]
        second = await step(directory, *image, *flags, f"--context={app}")
        assert second.code == 0, second.err
        state = await two.status()
    told = result(directory / "result.json")
    assert isinstance(told["steps_cached"], int)
    assert told["steps_cached"] >= 1
    cold = state["restored"]["cold_build_seconds"]
    assert cold >= 5
    assert told["saved_seconds"] is not None
    assert f"the last cold build of this cache took {cold:.0f} s" in second.err
    assert "image-build: fetched" in second.err
    host = image[0].removeprefix("--repository=").removesuffix("/app")
    assert (await pulled(host, "app", "1")).manifest_digest == told["digest"]


async def test_several_steps_at_once(directory: Path, registries: Registries) -> None:
    host = registries.start("several")
    async with pod(directory / "one", HTTP) as one:
        flags = [*await beside(one), f"--registry={host}", "--registry-insecure", "--version=1"]
        apps = [
            context(directory / f"context-{n}", BASE + f"RUN echo {n} > /n\n") for n in range(4)
        ]
        async with asyncio.TaskGroup() as group:
            steps = [
                group.create_task(
                    step(
                        directory / f"context-{n}", *flags, f"--repository=app{n}",
                        f"--context={app}",
                    )
                )
                for n, app in enumerate(apps)
            ]  # fmt: skip
        for one_of in steps:
            assert one_of.result().code == 0, one_of.result().err
        digests = {(await pulled(host, f"app{n}", "1")).manifest_digest for n in range(4)}
        assert len(digests) == 4
