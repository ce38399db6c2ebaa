"""Finding the generation to start from, and getting what the daemon needs before it starts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.errors import CacheError, StoreError, UnsupportedFormat
from buildsvc.store.contract import Store
from sidecar.download import Downloads
from sidecar.paths import EpochPaths
from sidecar.plan import Plan
from sidecar.segments import cut


class Cold(Exception):
    """There is nothing to start from. ``reason`` is a metric's label, the text is for people."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Found:
    """The generation that this pod starts from."""

    key: CacheKey
    generation: Generation
    root: cache_pb2.Root


async def locate(store: Store, keys: Sequence[CacheKey]) -> Found:
    """Return the newest usable generation of the first key that has one.

    A generation that cannot be read (corrupt, or of a newer format) is passed over for
    the key's older ones.

    Raises:
        Cold: no key has a generation, none can be used, or the store does not answer.
    """
    problems: list[CacheError] = []
    for key in keys:
        log = GenerationLog(store, key)
        try:
            async for generation in log.candidates(lambda _, problem: problems.append(problem)):
                try:
                    return Found(key, generation, await log.read_root(generation))
                except CacheError as problem:
                    problems.append(problem)
        except StoreError as problem:
            raise Cold("store-unavailable", str(problem)) from problem
    if problems:
        newer = isinstance(problems[0], UnsupportedFormat)
        raise Cold("unsupported-format" if newer else "corrupt", str(problems[0]))
    names = ", ".join(key.name for key in keys)
    raise Cold("no-generation", f"nothing has been published yet under {names}")


@dataclass(frozen=True)
class Loadable:
    """A generation whose databases are in the staging directory."""

    plan: Plan
    downloads: Downloads
    request: agent_pb2.LoadRequest


async def loadable(found: Found, downloads: Downloads, paths: EpochPaths) -> Loadable:
    """Download the databases and describe them and the Root to the agent.

    Raises:
        CorruptObject, StoreError: the databases cannot be had.
    """
    plan = await asyncio.to_thread(Plan, found.root)
    root_path = paths.down / "root"
    await asyncio.to_thread(root_path.write_bytes, found.root.SerializeToString())
    tree = await downloads.content_file(plan.databases.tree, lambda: 0)
    request = agent_pb2.LoadRequest(
        root_path=str(root_path),
        buildkit_root=str(paths.buildkit),
        databases_tree_path=str(tree),
        lease_blobs=True,
    )
    for segment in cut(enumerate(plan.databases.data)):
        staged = await downloads.segment(segment, lambda: 0)
        request.databases.append(segment.staged(staged))
        downloads.released(segment)
    return Loadable(plan, downloads, request)
