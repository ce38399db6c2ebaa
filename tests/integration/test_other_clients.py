"""Programs that know nothing of us, on a sidecar: buildx with the remote driver, and bake."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration.commands import Finished, command
from tests.integration.conftest import Registries
from tests.integration.contexts import BASE, context, write
from tests.integration.exports import pulled
from tests.integration.sidecars import Pod, pod

pytestmark = pytest.mark.integration

TARGETS = 10


class Buildx:
    """``docker buildx`` as a program of its own, with a pod's sidecar as its builder."""

    def __init__(self, directory: Path) -> None:
        self._env = {"BUILDX_CONFIG": str(directory / "buildx"), "HOME": str(directory)}

    async def create(self, one: Pod) -> None:
        """Make the builder."""
        endpoint = one.endpoint()
        files = {"cacert": "ca", "cert": "cert", "key": "key"}
        options = [f"{what}={endpoint[name]}" for what, name in files.items() if endpoint["tls"]]
        given = [f"--driver-opt={','.join(options)}"] if options else []
        argv = ("create", "--name=pod", "--driver=remote", *given, endpoint["url"])
        done = await self.run(*argv)
        assert done.code == 0, done.err

    async def run(self, *argv: str, env: Mapping[str, str] | None = None) -> Finished:
        """Run one command."""
        return await command("buildx", *argv, env={**self._env, **(env or {})})

    async def build(self, place: Path, *argv: str) -> Finished:
        """Build a directory, which must succeed."""
        done = await self.run("build", "--builder=pod", "--progress=plain", *argv, str(place))
        assert done.code == 0, done.err
        return done


@pytest.mark.parametrize("network", ["auto", "host"])
async def test_buildx_builds_and_pushes(
    directory: Path, registries: Registries, network: str
) -> None:
    """Over plain TCP, and over mutual TLS where RUN steps share the network."""
    host = registries.start(f"buildx-{network}")
    app = context(directory / "context", BASE + "RUN echo made > /made\nCOPY f /f\n", {"f": "1"})
    config = registries.daemon_config(host)
    buildx = Buildx(directory)
    flags = (f"--network={network}", f"--buildkitd-config={config}")
    async with pod(directory / "one", *flags, f"--store={directory / 'store'}") as one:
        await buildx.create(one)
        await buildx.build(app, f"--tag={host}/app:1", "--push", "--provenance=false")
        assert (await pulled(host, "app", "1")).manifest["layers"]
        await one.published(1)
        assert await one.stop() == 0
    write(app, {"f": "2"})
    async with pod(directory / "two", *flags, f"--store={directory / 'store'}") as two:
        other = Buildx(directory / "two-client")
        await other.create(two)
        done = await other.build(app, f"--tag={host}/app:2", "--push", "--provenance=false")
        assert "CACHED" in done.err
        assert "RUN echo made" in done.err
        first, second = await pulled(host, "app", "1"), await pulled(host, "app", "2")
        assert first.diff_ids[:-1] == second.diff_ids[:-1]


async def test_bake_with_ten_targets_and_four_clients_at_once(
    directory: Path, registries: Registries
) -> None:
    """All are served and published, and the next pod has them all cached."""
    host = registries.start("bake")
    app = context(directory / "context", "".join([BASE, *map(_stage, range(TARGETS))]))
    target = {
        f"t{n}": {
            "context": str(app), "target": f"t{n}", "tags": [f"{host}/bake:{n}"],
            "output": ["type=registry"], "attest": ["type=provenance,disabled=true"],
        }
        for n in range(TARGETS)
    }  # fmt: skip
    file = directory / "bake.json"
    file.write_text(json.dumps({"group": {"default": {"targets": [*target]}}, "target": target}))
    config = registries.daemon_config(host)
    flags = (f"--store={directory / 'store'}", f"--buildkitd-config={config}")
    singles = [context(directory / f"single-{n}", BASE + f"RUN echo {n} > /n\n") for n in range(4)]
    async with pod(directory / "one", *flags) as one:
        buildx = Buildx(directory)
        await buildx.create(one)
        bake = ("bake", "--builder=pod", "--progress=plain", f"--file={file}")
        allowed = {"BUILDX_BAKE_ENTITLEMENTS_FS": "0"}
        async with asyncio.TaskGroup() as group:
            baked = group.create_task(buildx.run(*bake, env=allowed))
            built = [group.create_task(one.build(single)) for single in singles]
        assert baked.result().code == 0, baked.result().err
        assert all(build.result().code == 0 for build in built)
        layers = {(await pulled(host, "bake", str(n))).diff_ids[-1] for n in range(TARGETS)}
        assert len(layers) == TARGETS
        assert await one.stop() == 0
    async with pod(directory / "two", *flags) as two:
        for n in range(TARGETS):
            assert (await two.build(app, f"--opt=target=t{n}")).ran == []
        for single in singles:
            assert (await two.build(single)).ran == []


def _stage(number: int) -> str:
    return f"FROM base AS t{number}\nRUN echo {number} > /number\n"
