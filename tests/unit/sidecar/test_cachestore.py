"""Keys from settings, and the daemon's own word about its version."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from buildsvc.errors import ConfigError, EnvironmentUnfit, ObjectNotFound
from buildsvc.store.bandwidth import BandwidthLimitedStore
from buildsvc.store.meter import StoreUse
from sidecar.cachestore import (
    UPLOADS,
    buildkit_version,
    cache_keys,
    cache_store,
    check_role,
    this_platform,
)
from sidecar.settings import Settings
from tests.unit.store.serving import serving


def program(tmp_path: Path, script: str) -> Path:
    path = tmp_path / "buildkitd"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


async def test_the_version_is_what_the_program_says(tmp_path: Path) -> None:
    said = "echo buildkitd github.com/moby/buildkit v0.33.1 1234abc"
    assert await buildkit_version(program(tmp_path, said)) == "v0.33.1"


@pytest.mark.parametrize("script", ["echo hello", "exit 1"])
async def test_a_program_that_does_not_say(tmp_path: Path, script: str) -> None:
    with pytest.raises(EnvironmentUnfit, match="does not say its version"):
        await buildkit_version(program(tmp_path, script))


async def test_a_program_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit, match="does not run"):
        await buildkit_version(tmp_path / "missing")


async def test_a_program_that_nobody_waits_for_is_ended(tmp_path: Path) -> None:
    began = tmp_path / "began"
    os.mkfifo(began)
    slow = program(tmp_path, f"echo > {began}\nexec sleep 1000")
    asking = asyncio.create_task(buildkit_version(slow))
    await asyncio.to_thread(began.read_bytes)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


def settings(**values: object) -> Settings:
    return Settings.read({"root": Path("/r"), **values})


def test_other_daemons_and_tenants_have_other_keys() -> None:
    one = cache_keys(settings(cache_key="app"), "v0.33.1").own
    assert one == cache_keys(settings(cache_key="app"), "v0.33.9").own
    others = [
        cache_keys(settings(cache_key="app"), "v0.34.0").own,
        cache_keys(settings(cache_key="app", tenant="other"), "v0.33.1").own,
        cache_keys(settings(cache_key="app", trust_domain="fork"), "v0.33.1").own,
    ]
    assert len({one.id, *(other.id for other in others)}) == 4


def test_the_own_key_comes_before_its_fallbacks() -> None:
    keys = cache_keys(settings(cache_key="branch", fallback_key=["main", "old"]), "v0.33.1")
    assert [key.name for key in keys.all] == ["branch", "main", "old"]
    assert {key.platform for key in keys.all} == {this_platform().replace("/", "-")}


def test_fallbacks_are_looked_for_in_the_domains_that_are_read() -> None:
    forks = settings(
        cache_key="pull", fallback_key=["main"], trust_domain="forks", read_domain=["team", "all"]
    )
    assert [(key.trust_domain, key.name) for key in cache_keys(forks, "v0.33.1").all] == [
        ("forks", "pull"),
        *(("team", "pull"), ("team", "main")),
        *(("all", "pull"), ("all", "main")),
    ]


@pytest.mark.parametrize("values", [{"fork_reads": "none"}, {"trust_domain": "team"}])
def test_no_other_domain_is_read(values: dict[str, object]) -> None:
    own = settings(cache_key="a", fallback_key=["b"], read_domain=["team"], **values)
    assert [(key.trust_domain, key.name) for key in cache_keys(own, "v0.33.1").all] == [
        (own.trust_domain, "a"),
        (own.trust_domain, "b"),
    ]


def test_templates_are_filled_before_keys_are_made() -> None:
    named = settings(cache_key="{env:APP}/{branch}").named(
        {"APP": "a/b", "BRANCH_NAME": "feature/x", "CHANGE_TARGET": ""}
    )
    assert cache_keys(named, "v0.33.1").own.name == "a%2Fb/feature/x"
    assert named.origins == settings().origins


def test_a_store_of_no_known_kind_is_a_setting_that_is_wrong() -> None:
    with pytest.raises(ConfigError):
        cache_store(settings(store="ftp://host/dir"), StoreUse())


ROLE = "oss://bucket/prefix?region=cn-hangzhou&credentials=ecs"


def test_a_role_that_run_steps_could_have() -> None:
    with pytest.raises(ConfigError, match=r"take the role .*--allow-instance-role") as caught:
        check_role(settings(store=ROLE, network="host"), isolated=False)
    assert "network host" in str(caught.value)


@pytest.mark.parametrize(
    ("store", "values", "isolated"),
    [
        (ROLE, {}, True),
        (ROLE, {"allow_instance_role": "on"}, False),
        (ROLE.replace("=ecs", "=oidc"), {}, False),
        ("s3://bucket/credentials-ecs", {}, False),
        ("/credentials=ecs", {}, False),
    ],
)
def test_credentials_that_run_steps_do_not_have(
    store: str, values: dict[str, object], *, isolated: bool
) -> None:
    check_role(settings(store=store, **values), isolated=isolated)


async def test_downloads_wait_for_their_slots_and_not_for_connections() -> None:
    """Else they would be sent in the order of their requests, not of their urgency."""
    together = asyncio.Barrier(40 + UPLOADS)

    async def handler(_: web.Request) -> web.Response:
        await together.wait()
        return web.Response(body=b"data")

    app = web.Application()
    app.router.add_route("*", "/{name:.*}", handler)
    async with serving(app) as address, asyncio.timeout(30):
        many = await asyncio.to_thread(settings, store=address, download_concurrency=40)
        store = cache_store(many, StoreUse())
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(together.parties):
                    group.create_task(store.get(f"a/{number}"))
        finally:
            await store.close()


@pytest.fixture
def local(tmp_path: Path) -> Settings:
    """With a store of the embedded kind."""
    return settings(store=str(tmp_path / "store"))


@pytest.fixture
def slow(tmp_path: Path) -> Settings:
    """With such a store, and a limit."""
    return settings(store=str(tmp_path / "store"), upload_limit=1000)


async def test_what_is_sent_is_limited_where_that_is_set(slow: Settings) -> None:
    store = cache_store(slow, StoreUse())
    try:
        assert isinstance(store, BandwidthLimitedStore)
        await store.put("a/b", b"12345")
        assert await store.get("a/b") == b"12345"
    finally:
        await store.close()


async def test_what_is_sent_to_the_store_is_metered(local: Settings) -> None:
    use = StoreUse()
    store = cache_store(local, use)
    try:
        await store.put("a/b", b"12345")
        assert [found.name async for found in store.list("a/")] == ["a/b"]
        with pytest.raises(ObjectNotFound):
            await store.get("a/c")
    finally:
        await store.close()
    # Of a listing, the page with the object and the empty one at its end.
    assert dict(use.operations) == {"put": 1, "list": 2, "get": 1}
    assert dict(use.errors) == {("get", "ObjectNotFound"): 1}
    assert use.bytes_out == 5
