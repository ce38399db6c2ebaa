"""Whole Fill calls on a real directory with real workers: what may be linked, and what is kept."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar.agent.blobs import ContentBlobs
from sidecar.agent.fills import Fills
from sidecar.agent.index import InvalidArgument, Kind, Row
from sidecar.agent.residency import snapshot
from sidecar.agent.usage import Usage
from sidecar.agent.workers import Unpackers
from tests.unit.agent.ondisk import Cache, describe
from tests.unit.agent.test_snapshotter import World, layer, running
from tests.unit.agent.test_twins import make_plain

FILES = 7


class Scene:
    """An agent with lazy snapshots that all have one tree."""

    def __init__(self, world: World, cache: Cache, directory: Path, unpackers: Unpackers) -> None:
        self.world = world
        self.directory = directory
        self.fills = Fills(
            world.snapshotter,
            world.residency,
            unpacker=unpackers,
            blobs=ContentBlobs(directory / "bk", directory / "scratch", None, None),  # type: ignore[arg-type]
        )
        self.source = directory / "source"
        make_plain(self.source)
        self.captured = cache.packer.capture_tree(self.source)
        self.data = cache.read(self.captured.tree_digests)
        self.packs = cache.segments(self.captured.data_digests)

    async def restore(self, *rows: tuple[str, Kind]) -> None:
        await self.world.snapshotter.restore(
            [
                Row(n, name, "", kind, {}, 1, 1, usage=Usage(1, 1), lazy=True)
                for n, (name, kind) in enumerate(rows, start=1)
            ]
        )

    def layer(self, name: str) -> Path:
        return layer(self.world, self.world.snapshotter.stat(name))

    def kept(self, name: str) -> bool:
        return (self.layer(name).parent / "tree").exists()

    async def fill(self, name: str, link_from: str = "", *, keep: bool = True) -> int:
        """Fill an object to the end; the number of files that were linked."""
        tree = self.directory / f"tree-{name}"
        tree.write_bytes(self.data)
        header = agent_pb2.FillHeader(
            object=snapshot(name).message(),
            tree_path=str(tree),
            priority=2,
            link_from=link_from,
            keep_tree=keep,
        )
        linked = 0
        more: asyncio.Queue[list[int]] = asyncio.Queue()
        if not link_from:
            more.put_nowait(list(range(len(self.captured.data_digests) // 32)))
        async with aclosing(self.fills.run(self._requests(header, more))) as answers:
            async for answer in answers:
                if answer.HasField("wanted"):
                    linked = answer.wanted.linked
                    more.put_nowait(list(answer.wanted.chunks))
        assert not tree.exists()
        assert self.world.residency.is_local(snapshot(name))
        return linked

    async def _requests(
        self, header: agent_pb2.FillHeader, more: asyncio.Queue[list[int]]
    ) -> AsyncIterator[agent_pb2.FillRequest]:
        yield agent_pb2.FillRequest(header=header)
        yield agent_pb2.FillRequest(priority=0)
        wanted = await more.get()
        for path, staged in self.packs.items():
            segment = agent_pb2.Segment(path=str(self.directory / "segment"))
            for each in staged:
                if each.chunk in wanted:
                    segment.chunks.add(chunk=each.chunk, offset=each.offset, stored=each.stored)
            if segment.chunks:
                await asyncio.to_thread(shutil.copy, path, self.directory / "segment")
                yield agent_pb2.FillRequest(segment=segment)


@pytest.fixture
async def scene(tmp_path: Path, cache: Cache) -> AsyncIterator[Scene]:
    root = tmp_path / "root"
    root.mkdir()
    async with running(root) as world, Unpackers(2) as unpackers:
        yield await asyncio.to_thread(Scene, world, cache, tmp_path, unpackers)


COMMITTED, ACTIVE = Kind.COMMITTED, Kind.ACTIVE


def _same(scene: Scene, name: str) -> None:
    assert describe(scene.layer(name)) == describe(scene.source)


async def test_a_restored_layer_is_linked(scene: Scene) -> None:
    await scene.restore(("a", COMMITTED), ("b", COMMITTED), ("c", COMMITTED))
    assert await scene.fill("a") == 0
    assert await scene.fill("b", "a", keep=False) == FILES
    assert await scene.fill("c", "a") == FILES
    assert [scene.kept(name) for name in "abc"] == [True, False, True]
    for name in "abc":
        await asyncio.to_thread(_same, scene, name)


async def test_what_is_linked_outlives_its_sibling(scene: Scene) -> None:
    await scene.restore(("a", COMMITTED), ("b", COMMITTED))
    await scene.fill("a")
    await scene.fill("b", "a")
    await scene.world.snapshotter.remove("a")
    await scene.world.directories.deleted()
    await asyncio.to_thread(_same, scene, "b")


@pytest.mark.parametrize(
    ("first", "second"), [(ACTIVE, COMMITTED), (COMMITTED, ACTIVE), (ACTIVE, ACTIVE)]
)
async def test_what_can_change_is_never_linked(scene: Scene, first: Kind, second: Kind) -> None:
    await scene.restore(("a", first), ("b", second))
    await scene.fill("a")
    assert await scene.fill("b", "a") == 0
    assert scene.kept("a") == (first is COMMITTED)
    assert (scene.layer("b") / "large").stat().st_nlink == 1


async def test_a_layer_committed_after_it_was_restored_is_not_linked(scene: Scene) -> None:
    """Between, somebody could write to it."""
    await scene.restore(("a", ACTIVE), ("b", COMMITTED))
    await scene.fill("a")
    await scene.world.snapshotter.commit("done", "a", "", {})
    assert await scene.fill("b", "done") == 0
    await asyncio.to_thread(_same, scene, "b")


async def test_a_layer_that_was_made_here_is_not_linked(scene: Scene) -> None:
    await scene.restore(("b", COMMITTED))
    await scene.world.snapshotter.prepare("key", "", {})
    await scene.world.snapshotter.commit("made", "key", "", {})
    assert await scene.fill("b", "made") == 0


@pytest.mark.parametrize("name", ["a", "gone", "b"])
async def test_without_a_sibling_everything_is_wanted(scene: Scene, name: str) -> None:
    """It is still lazy, was removed, or is the object itself."""
    await scene.restore(("a", COMMITTED), ("b", COMMITTED))
    assert await scene.fill("b", name) == 0
    await asyncio.to_thread(_same, scene, "b")


async def test_a_sibling_whose_tree_nobody_kept_is_not_linked(scene: Scene) -> None:
    await scene.restore(("a", COMMITTED), ("b", COMMITTED))
    await scene.fill("a", keep=False)
    assert await scene.fill("b", "a") == 0


async def test_a_second_header_is_refused(scene: Scene) -> None:
    await scene.restore(("a", COMMITTED))
    header = agent_pb2.FillHeader(object=snapshot("a").message(), tree_path="/nowhere")

    async def requests() -> AsyncIterator[agent_pb2.FillRequest]:
        yield agent_pb2.FillRequest(header=header)
        yield agent_pb2.FillRequest(header=header)

    (scene.directory / "t").write_bytes(scene.data)
    header.tree_path = str(scene.directory / "t")
    async with aclosing(scene.fills.run(requests())) as answers:
        with pytest.raises(InvalidArgument, match="one header"):
            await anext(answers)
