"""A store that lies: bits, packs, roots and heads are damaged. The image is right all the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import decode
from buildsvc.cache.packs import pack_name
from buildsvc.cache.roots import ChunkTable, Location
from tests.integration.seed import Seed
from tests.integration.served import root_of, scene
from tests.integration.stored import flip

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each bit to flip."""
    if "flip" in metafunc.fixturenames:
        metafunc.parametrize("flip", range(metafunc.config.getoption("--flips")))


#: What a chunk that is damaged belongs to.
_PLACES = ("databases", "a layer's tree", "a layer", "a blob")
#: What a layer's blob begins with.
_GZIP = b"\x1f\x8b"


def chunk_of(root: cache_pb2.Root, place: str, chance: random.Random) -> int:
    """Choose a chunk of the place."""
    trees = [s.tree for s in root.snapshots if s.HasField("tree")]
    if place == "databases":
        return chance.choice([*root.databases.tree, *root.databases.data])
    if place == "a layer's tree":
        return chance.choice([chunk for tree in trees for chunk in tree.tree])
    if place == "a layer":
        return chance.choice([chunk for tree in trees for chunk in tree.data])
    return chance.choice([chunk for blob in root.blobs for chunk in blob.data])


def damage(root: cache_pb2.Root, store: Path, place: str, chance: random.Random) -> None:
    """Flip a bit of a stored chunk."""
    at = ChunkTable(root)[chunk_of(root, place, chance)]
    path = store / pack_name(at.pack)
    data = bytearray(path.read_bytes())
    data[at.offset + chance.randrange(at.stored)] ^= 1 << chance.randrange(8)
    if intact(bytes(data[at.offset : at.offset + at.stored]), at.length, at.digest):
        # A frame's header has a bit that means nothing.
        damage(root, store, place, chance)
        return
    path.unlink()
    path.write_bytes(data)


def beginning(at: Location, store: Path) -> bytes:
    """The first two bytes of a chunk."""
    with (store / pack_name(at.pack)).open("rb") as file:
        file.seek(at.offset)
        return decode(file.read(at.stored), at.length, at.digest)[:2]


def intact(stored: bytes, length: int, digest: bytes) -> bool:
    """Whether a chunk is what its name says, found without the code under test."""
    try:
        data = stored
        if len(stored) < length:
            data = zstandard.ZstdDecompressor().decompress(stored, max_output_size=length)
    except zstandard.ZstdError:
        return False
    return blake3(data).digest() == digest


async def test_a_flipped_bit_never_reaches_an_image(
    directory: Path, seeded: Seed, flip: int, pytestconfig: pytest.Config
) -> None:
    chance = random.Random(f"{pytestconfig.getoption('--kill-seed')} {flip}")
    mode = "complete" if flip % 5 == 4 else "lazy"
    async with scene(directory, seeded) as it:
        _, root = await root_of(it.store.directory)
        damage(root, it.store.directory, _PLACES[flip % len(_PLACES)], chance)
        async with it.pod(f"--restore={mode}") as one:
            await one.ready()
            await it.built(one, revision=chance.randrange(2))
            state = await one.until(
                lambda s: bool(s["by"].get("errors") or s["by"].get("cold_starts"))
            )
            if mode == "complete":
                assert state["counts"].get("roots_lost", 0) == 0


@pytest.mark.parametrize("mode", ["lazy", "complete"])
async def test_a_lost_manifest_costs_neither_the_generation_nor_the_next_one(
    directory: Path, seeded: Seed, mode: str
) -> None:
    """Nor a log. No record of the cache needs them, so that none can be dropped for them."""
    async with scene(directory, seeded) as it:
        _, root = await root_of(it.store.directory)
        starts = {blob.digest: ChunkTable(root)[blob.data[0]] for blob in root.blobs}
        store = it.store.directory
        lost = {digest for digest, at in starts.items() if beginning(at, store) != _GZIP}
        assert len(lost) > 1
        for digest in lost:
            at = starts[digest]
            flip(store / pack_name(at.pack), at.offset + at.stored // 2)
        async with it.pod(f"--restore={mode}") as one:
            await one.ready()
            # Whoever has not come upon it does not know.
            await one.until(lambda s: s["objects"]["left"] == 0)
            state = await it.built(one, revision=1)
            assert state["restored"]["number"] == 1
            await one.published(2)
        newest, root = await root_of(it.store.directory)
        assert newest.number == 2
        async with it.pod("--restore=complete") as one:
            await one.ready()
            build, archive = await it.project.build(one, 1)
            assert build.ran == []
            it.project.check(archive, 1)
            assert (await one.status())["restored"]["number"] == 2
        made_again = lost & {blob.digest for blob in root.blobs}
        assert made_again < lost


@pytest.mark.parametrize("keep", [0.0, 0.5, None], ids=["empty", "half", "missing"])
async def test_packs_that_were_cut(directory: Path, seeded: Seed, keep: float | None) -> None:
    async with scene(directory, seeded) as it:
        for path in it.store.packs:
            data = path.read_bytes()
            path.unlink()
            if keep is not None:
                path.write_bytes(data[: int(len(data) * keep)])
        async with it.pod() as one:
            await one.ready()
            await it.built(one, revision=1)


@pytest.mark.parametrize("what", ["roots/", "keys/"])
async def test_roots_and_heads_that_are_garbage(directory: Path, seeded: Seed, what: str) -> None:
    async with scene(directory, seeded) as it:
        for name in it.store.names:
            if name.startswith(what):
                path = it.store.directory / name
                path.unlink()
                path.write_bytes(random.Random(1).randbytes(500))
        async with it.pod() as one:
            await one.ready()
            state = await it.built(one)
            assert state["by"]["cold_starts"] == {"corrupt": 1}
            await one.published(2)
        # The garbage was continued, not overwritten.
        assert it.store.heads == [1, 2]
