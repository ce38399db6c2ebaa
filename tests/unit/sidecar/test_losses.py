"""What was found to be lost, and that nothing new relies on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import digest, split_digests
from buildsvc.cache.generations import Generation
from buildsvc.cache.packs import pack_name
from buildsvc.cache.roots import Location
from buildsvc.errors import CorruptObject, ObjectNotFound
from sidecar import databases
from sidecar.databases import Records
from sidecar.epoch import Epoch
from sidecar.launch import Launch
from sidecar.locate import Found
from sidecar.losses import Losses
from sidecar.paths import EpochPaths
from sidecar.room import Room
from sidecar.settings import Settings
from sidecar.status import Status
from tests.unit.cache.fakes import MemoryStore
from tests.unit.sidecar.fakeagent import generation
from tests.unit.sidecar.fakenamespace import FakeNamespace
from tests.unit.sidecar.test_locate import MINE

CONTENT = b"L" * 100


def test_the_same_chunk_may_be_whole_in_another_pack() -> None:
    losses = Losses()
    here, there = (
        Location(digest=b"c" * 32, pack=pack * 32, offset=0, stored=1, length=1)
        for pack in (b"p", b"q")
    )
    losses.corrupt(here)
    assert not losses.readable(here)
    assert losses.readable(there)
    assert losses.suspects == {here.pack}
    losses.corrupt(there)
    assert len(losses) == 2
    assert not losses.readable(here)


def test_only_what_was_not_known_is_told() -> None:
    """Looking at what is lost comes upon it again, and must not begin anew for that."""
    told = 0

    def tell() -> None:
        nonlocal told
        told += 1

    losses = Losses(told=tell)
    at = Location(digest=b"c" * 32, pack=b"p" * 32, offset=0, stored=1, length=1)
    for _ in range(2):
        losses.corrupt(at)
        losses.missing(at.pack)
    assert told == 2


class Scene:
    """An epoch, and two generations in its store."""

    def __init__(self, settings: Settings, paths: EpochPaths) -> None:
        self.paths = paths
        self.namespace = FakeNamespace(paths)
        self.store = MemoryStore()
        self.epoch = Epoch(
            settings,
            paths,
            self.namespace,
            Launch(settings, {}, None),
            Room(Path("/")),
            store=self.store,
            status=Status(),
            losses=Losses(),
        )

    async def generations(self) -> tuple[cache_pb2.Root, cache_pb2.Root, str]:
        """Two of one layer, which is the second's databases too, and the name of its pack."""
        packs = self.paths.base / "packs"
        await asyncio.to_thread(packs.mkdir)
        older = await generation(self.store, packs, {"layer": CONTENT})
        newest = cache_pb2.Root()
        newest.CopyFrom(older)
        newest.databases.CopyFrom(older.snapshots[0].tree)
        pack = older.packs[older.chunk_packs[newest.databases.tree[0]]]
        return older, newest, pack_name(pack.digest)


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Below a path that is short enough for sockets."""
    directory = tmp_path_factory.mktemp("l")
    (directory / "buildkitd").touch(mode=0o755)
    values = {"root": directory, "tools_dir": directory, "max_used_space": "1GB"}
    return Settings.read({**values, "trust_domain": MINE.trust_domain})


@pytest.fixture
def paths(settings: Settings) -> EpochPaths:
    made = EpochPaths(settings.root / "epoch-1")
    made.make()
    return made


@pytest_asyncio.fixture
async def scene(settings: Settings, paths: EpochPaths) -> AsyncIterator[Scene]:
    it = Scene(settings, paths)
    yield it
    await it.epoch.close(0)


def found(root: cache_pb2.Root) -> Found:
    return Found(MINE, Generation(cache_pb2.Head(number=1, root=b"r" * 32), b""), root)


async def test_what_a_generation_that_is_passed_over_lacks(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "records", lambda _: Records({"layer": ["record"]}, {}))
    older, newest, pack = await scene.generations()
    content = scene.store.objects.pop(pack)
    await scene.epoch.open()
    with pytest.raises(ObjectNotFound):
        await scene.epoch.inherited.fetch(found(newest))
    # Whoever restores from here on does not find out any more.
    scene.store.objects[pack] = content
    ready = await scene.epoch.inherited.fetch(found(older))
    scene.epoch.inherited.prefetch(ready)
    await scene.epoch.inherited.load(ready)
    async with scene.epoch.serving():
        await scene.epoch.start_daemon()
        # The older one lacks it too.
        assert scene.namespace.daemon.pruned == ["id==record"]
        # The databases are none that a checkpoint could go on with.
        with pytest.raises(CorruptObject, match=r"cache\.db: no valid meta page"):
            await scene.epoch.checkpointer().take()
    (forgotten,) = scene.namespace.agent.forgotten
    assert digest(CONTENT) in split_digests(forgotten)
