"""A store with one published generation of the steady project, to be copied by tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from buildsvc.cache.keys import CacheKey
from sidecar.cachestore import this_platform
from sidecar.versions import BUILDKIT_VERSION
from tests.integration.sidecars import pod
from tests.integration.steady import Project

#: The key of a sidecar without any settings about it.
KEY = CacheKey.make(
    tenant="default",
    trust_domain="default",
    name="default",
    platform=this_platform(),
    buildkit_version=BUILDKIT_VERSION,
)


@dataclass(frozen=True)
class Seed:
    """Where the store is."""

    store: Path


async def seed(directory: Path) -> Seed:
    """Build the steady project in a pod of its own and publish it as generation 1."""
    project = Project(directory / "context")
    store = directory / "store"
    async with pod(directory / "pod", f"--store={store}") as first:
        build, archive = await project.build(first, 0)
        build.ok()
        project.check(archive, 0)
        await first.published(1)
        assert await first.stop() == 0
    return Seed(store)
