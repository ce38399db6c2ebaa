"""Verification of a generation in a store that answers wrong now and then."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.packs import pack_name
from buildsvc.cache.verify import Verified, verify
from buildsvc.errors import NotPublished, StoreUnavailable, UnreadableObject
from buildsvc.store.contract import MAX_GET
from tests.unit.cache.actors import KEYS
from tests.unit.cache.fakes import MemoryStore
from tests.unit.cachecli.stores import BASE, Rooted

KEY = KEYS[0]


class Lying(MemoryStore):
    """Gives the wrong bytes at some of its reads of packs and roots."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.lies: set[int] = set()
        self.archived = ""

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        data = await super().get(name, limit=limit)
        if name == self.archived:
            raise UnreadableObject(name)
        if not name.startswith(("packs/", "roots/")):
            return data
        self.reads += 1
        return bytes(len(data)) if self.reads in self.lies else data


async def published(store: MemoryStore, directory: Path) -> tuple[GenerationLog, Generation]:
    root = Rooted(BASE, None, directory).root()
    for pack in root.packs:
        packed = (directory / f"{pack.digest.hex()}.pack").read_bytes()
        store.objects[pack_name(pack.digest)] = packed
    log = GenerationLog(store, KEY)
    return log, await log.publish(root, parent=None)


async def looked(
    store: MemoryStore, log: GenerationLog, generation: Generation, *, deep: bool = True
) -> Verified:
    return await verify(store, log, generation, deep=deep, progress=lambda _, __, ___: None)


async def test_each_answer_may_be_wrong_once(tmp_path: Path) -> None:
    store = Lying()
    log, generation = await published(store, tmp_path)
    store.reads = 0
    found = await looked(store, log, generation)
    assert (found.problems, found.reread) == ([], 0)
    # The root, the chunks, two trees, and tree and file of the databases.
    reads = store.reads
    assert reads >= 6
    for number in range(1, reads + 1):
        store.reads, store.lies = 0, {number}
        found = await looked(store, log, generation)
        assert found.problems == [], number
        assert found.reread > 0, number


async def test_an_answer_that_is_wrong_twice(tmp_path: Path) -> None:
    store = Lying()
    log, generation = await published(store, tmp_path)
    store.reads, store.lies = 0, {1, 2}
    (problem,) = (await looked(store, log, generation)).problems
    assert problem.kind == "root"


async def test_a_pack_that_is_archived_is_lost(tmp_path: Path) -> None:
    store = Lying()
    log, generation = await published(store, tmp_path)
    (pack,) = (await log.read_root(generation)).packs
    store.archived = pack_name(pack.digest)
    assert (await looked(store, log, generation, deep=False)).problems == []
    found = await looked(store, log, generation)
    (problem,) = found.problems
    assert (problem.name, found.usable) == (store.archived, False)
    assert {item.kind for item in problem.lost} == {"layer", "active", "databases"}


async def test_a_store_that_does_not_answer_is_no_damage(tmp_path: Path) -> None:
    store = MemoryStore()
    log, generation = await published(store, tmp_path)
    store.refuse = {"stat"}
    with pytest.raises(StoreUnavailable):
        await looked(store, log, generation)


async def test_what_is_collected_meanwhile_is_no_damage(tmp_path: Path) -> None:
    store = MemoryStore()
    log, generation = await published(store, tmp_path)
    store.objects = {name: data for name, data in store.objects.items() if "packs/" not in name}
    assert len((await looked(store, log, generation, deep=False)).problems) == 1
    await log.fence(2, parent=generation, collection=1, oldest_kept=2, repeats=None)
    with pytest.raises(NotPublished, match="was collected or removed"):
        await looked(store, log, generation, deep=False)
