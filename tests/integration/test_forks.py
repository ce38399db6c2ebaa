"""Builds of forks: they start from the protected domain's cache, and publish to their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.store.local import LocalStore
from sidecar.cachestore import this_platform
from sidecar.versions import BUILDKIT_VERSION
from tests.integration.contexts import BASE, context, write
from tests.integration.sidecars import Pod, pod
from tests.integration.test_signed import write_keys

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

_MOUNT = "RUN --mount=type=cache,target=/c"
_GITHUB = {"GITHUB_REPOSITORY": "acme/app", "GITHUB_HEAD_REF": ""}
_PUSH = {**_GITHUB, "GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main"}
#: Its author has called the branch as the protected one is called.
_REQUEST = {
    **_GITHUB,
    "GITHUB_EVENT_NAME": "pull_request",
    "GITHUB_REF": "refs/pull/7/merge",
    "GITHUB_HEAD_REF": "main",
    "GITHUB_BASE_REF": "main",
}


@dataclass
class Domains:
    """One store, a key pair for each of two trust domains, and pods of both."""

    directory: Path
    keys: dict[str, tuple[Path, Path]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for domain in ("protected", "forks"):
            place = self.directory / domain
            place.mkdir()
            self.keys[domain] = write_keys(place)

    @asynccontextmanager
    async def pod(
        self, name: str, domain: str, variables: Mapping[str, str], *flags: str
    ) -> AsyncIterator[Pod]:
        given = [
            f"--store={self.directory / 'store'}",
            "--cache-key={repository}/{branch}",
            "--tenant=acme",
            f"--trust-domain={domain}",
            f"--signing-key={self.keys[domain][0]}",
            *(f"--verify-key=acme/{one}={verify}" for one, (_, verify) in self.keys.items()),
        ]
        async with pod(self.directory / name, *given, *flags, env=variables) as one:
            yield one
            assert await one.stop() == 0

    async def packs(self, domain: str, name: str) -> set[bytes]:
        """The packs that the newest generation of a key names."""
        key = CacheKey.make(
            tenant="acme",
            trust_domain=domain,
            name=name,
            platform=this_platform(),
            buildkit_version=BUILDKIT_VERSION,
        )
        store = LocalStore(self.directory / "store")
        log = GenerationLog(store, key)
        newest = await log.newest()
        assert newest is not None
        root = await log.read_root(newest)
        await store.close()
        return {pack.digest for pack in root.packs}


@pytest.fixture
def domains(directory: Path) -> Domains:
    return Domains(directory)


@pytest.fixture
async def source(domains: Domains) -> Path:
    """What the protected branch has built: a step has left a token in a cache mount."""
    place = context(
        domains.directory / "context",
        BASE + f"RUN echo layer > /layer\nCOPY f /f\n{_MOUNT} sh /f\n",
        {"f": "echo canary > /c/token\n"},
    )
    async with domains.pod("first", "protected", _PUSH) as first:
        await first.build(place)
        await first.published(1)
    return place


async def test_a_fork_starts_from_the_protected_cache(domains: Domains, source: Path) -> None:
    protected = await domains.packs("protected", "acme%2Fapp/main")
    reads = "--read-domain=protected"
    async with domains.pod("fork", "forks", _REQUEST, reads) as fork:
        restored = (await fork.status())["restored"]
        assert (restored["found_key"], restored["found_domain"]) == ("acme%2Fapp/main", "protected")
        assert restored["because"].startswith(
            "nothing has been published yet under acme%2Fapp/pull:7; "
        )
        assert (await fork.build(source)).ran == []
        write(source, {"f": "ls /c; touch /c/own\n"})
        build = await fork.build(source)
        assert len(build.ran) == 2, build.ran
        assert build.output == "", "the mount is not empty"
    # Nothing of what it has in common was stored again, and nothing was published elsewhere.
    assert protected & await domains.packs("forks", "acme%2Fapp/pull:7")
    assert protected == await domains.packs("protected", "acme%2Fapp/main")

    write(source, {"f": "ls /c; true\n"})
    async with domains.pod("again", "forks", _REQUEST, reads) as again:
        restored = (await again.status())["restored"]
        assert (restored["found_key"], restored["found_domain"]) == ("acme%2Fapp/pull:7", "")
        assert (await again.build(source)).output.split() == ["own"]
    async with domains.pod("last", "protected", _PUSH) as last:
        assert (await last.status())["restored"]["found_domain"] == ""
        assert (await last.build(source)).output.split() == ["token"]


async def test_a_fork_that_may_read_everything(domains: Domains, source: Path) -> None:
    write(source, {"f": "ls /c; true\n"})
    flags = ("--read-domain=protected", "--fork-reads=all")
    async with domains.pod("fork", "forks", _REQUEST, *flags) as fork:
        assert (await fork.build(source)).output.split() == ["token"]


async def test_a_fork_that_may_read_nothing(domains: Domains, source: Path) -> None:
    flags = ("--read-domain=protected", "--fork-reads=none")
    async with domains.pod("fork", "forks", _REQUEST, *flags) as fork:
        state = await fork.status()
        assert (state["restored"], state["by"]["cold_starts"]) == (None, {"no-generation": 1})
        assert (await fork.build(source)).ran
