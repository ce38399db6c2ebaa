"""What a store can do to a pod: die, lie, refuse. The build succeeds and its image is right."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard
from aiohttp import web
from blake3 import blake3

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.packs import PackWriter, pack_name
from buildsvc.cache.roots import ChunkTable
from buildsvc.store.local import LocalStore
from sidecar.plan import Plan
from sidecar.segments import cut
from tests.integration.memory import in_memory
from tests.integration.objects import Objects, Request, objects
from tests.integration.seed import KEY, Seed, seed
from tests.integration.sidecars import Pod, State, pod
from tests.integration.steady import Project

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

_ROOM = 2 << 30


@pytest.fixture(scope="module")
def seeded(machine: None) -> Iterator[Seed]:  # noqa: ARG001
    """A store with one generation, made once."""
    with in_memory(_ROOM) as directory:
        yield asyncio.run(seed(directory))


@pytest.fixture
def memory(machine: None) -> Iterator[Path]:  # noqa: ARG001
    with in_memory(_ROOM) as directory:
        yield directory


@dataclass
class Scene:
    """A copy of the seeded store, served, and a pod's flags for it."""

    directory: Path
    store: Objects
    project: Project

    @asynccontextmanager
    async def pod(self, *flags: str) -> AsyncIterator[Pod]:
        root = self.directory / "root"
        async with Pod(root, f"--store={self.store.url}", "--demand-timeout=3s", *flags) as one:
            yield one

    async def built(self, one: Pod, revision: int = 0) -> State:
        """Build, once more if the pod says so, and return the status after the success.

        Revision 0 is cached whole and exported from blobs; revision 1 needs layers too.
        """
        build, archive = await self.project.build(one, revision)
        if build.code:
            state = await one.until(lambda s: s["ready"] and s["advice"]["what"] == "run-again")
            assert state["epoch"] == 2, build.text
            build, archive = await self.project.build(one, revision)
        build.ok()
        self.project.check(archive, revision)
        return await one.status()


@asynccontextmanager
async def scene(directory: Path, seeded: Seed) -> AsyncIterator[Scene]:
    await asyncio.to_thread(shutil.copytree, seeded.store, directory / "store")
    async with objects(directory / "store") as store:
        yield Scene(directory, store, Project(directory / "context"))


async def root_of(directory: Path) -> tuple[Generation, cache_pb2.Root]:
    store = LocalStore(directory)
    log = GenerationLog(store, KEY)
    newest = await log.newest()
    assert newest is not None
    root = await log.read_root(newest)
    await store.close()
    return newest, root


# A store that dies


def after_databases(
    root: cache_pb2.Root, act: Callable[[], web.Response | None]
) -> Callable[[Request], object]:
    """Return a hook that lets the databases pass and calls ``act`` for every later read."""
    databases = Plan(root).databases
    left = sum(
        len(plan.ranges)
        for part in (databases.tree, databases.data)
        for plan in cut(enumerate(part))
    )

    async def hook(request: Request) -> web.StreamResponse | None:
        nonlocal left
        if request.done or not request.name.startswith("packs/") or request.writes:
            return None
        left -= 1
        return act() if left < 0 else None

    return hook


async def test_prefetches_that_fail_harm_nobody(memory: Path, seeded: Seed) -> None:
    async with scene(memory, seeded) as it:
        _, root = await root_of(it.store.directory)
        it.store.hook = after_databases(root, lambda: web.Response(status=403))  # type: ignore[assignment]
        async with it.pod() as one:
            await one.ready()
            await one.until(
                lambda state: len(fetches(state, "failed")) == state["objects"]["total"]
            )
            it.store.hook = undisturbed
            state = await it.built(one)
            assert state["epoch"] == 1
            assert state["counts"].get("roots_lost", 0) == 0
            assert state["restored"]["number"] == 1
            assert state["objects"]["demand"] > 0


def fetches(state: State, outcome: str) -> list[State]:
    return [s for s in state["timeline"] if s["kind"] == "fetch" and s["outcome"] == outcome]


async def undisturbed(_: Request) -> None:
    return None


async def test_a_store_that_dies_costs_one_build(memory: Path, seeded: Seed) -> None:
    async with scene(memory, seeded) as it:
        _, root = await root_of(it.store.directory)
        dead = asyncio.Event()

        def die() -> None:
            dead.set()

        it.store.hook = after_databases(root, die)  # type: ignore[assignment]
        hold = it.store.hook

        async def hook(request: Request) -> web.StreamResponse | None:
            answer = await hold(request)
            if dead.is_set():
                await asyncio.Event().wait()
            return answer

        it.store.hook = hook
        async with it.pod() as one:
            await dead.wait()
            await it.store.die()
            await one.ready()
            build, _ = await it.project.build(one, 0)
            assert build.code
            state = await it.built(one)
            assert state["epoch"] == 2
            assert state["counts"]["roots_lost"] == 1
            assert state["by"]["cold_starts"] == {"root-lost": 1}
            report = await one.checkpoint()
            assert not report["published"]
            assert report["reason"]


async def test_a_store_that_is_dead_from_the_start(memory: Path, seeded: Seed) -> None:
    async with scene(memory, seeded) as it:
        await it.store.die()
        async with it.pod() as one:
            await one.ready()
            state = await it.built(one)
            assert state["by"]["cold_starts"] == {"store-unavailable": 1}


async def test_an_upload_that_is_refused_fails_no_build(memory: Path, seeded: Seed) -> None:
    async with scene(memory, seeded) as it:

        async def full(request: Request) -> web.StreamResponse | None:
            if request.writes and not request.done:
                return web.Response(status=507, text="the bucket is full")
            return None

        it.store.hook = full
        async with it.pod() as one:
            await one.ready()
            it.project.revise(1)
            build, archive = await it.project.build(one, 1)
            build.ok()
            it.project.check(archive, 1)
            report = await one.checkpoint()
            assert not report["published"]
            assert "full" in report["reason"] or "507" in report["reason"]
            assert it.store.heads == [1]
            it.store.hook = undisturbed
            report = await one.checkpoint()
            assert report["published"], report
        async with pod(memory / "next", f"--store={it.store.url}") as after:
            build, archive = await it.project.build(after, 1)
            assert build.ok().ran == []
            it.project.check(archive, 1)


# A store that lies


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each bit to flip."""
    if "flip" in metafunc.fixturenames:
        metafunc.parametrize("flip", range(metafunc.config.getoption("--flips")))


#: What a chunk that is damaged belongs to.
_PLACES = ("databases", "a layer's tree", "a layer", "a blob")


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
    memory: Path, seeded: Seed, flip: int, pytestconfig: pytest.Config
) -> None:
    chance = random.Random(f"{pytestconfig.getoption('--kill-seed')} {flip}")
    mode = "complete" if flip % 5 == 4 else "lazy"
    async with scene(memory, seeded) as it:
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


@pytest.mark.parametrize("keep", [0.0, 0.5, None], ids=["empty", "half", "missing"])
async def test_packs_that_were_cut(memory: Path, seeded: Seed, keep: float | None) -> None:
    async with scene(memory, seeded) as it:
        for path in it.store.packs:
            data = path.read_bytes()
            path.unlink()
            if keep is not None:
                path.write_bytes(data[: int(len(data) * keep)])
        async with it.pod() as one:
            await one.ready()
            await it.built(one, revision=1)


@pytest.mark.parametrize("what", ["roots/", "keys/"])
async def test_roots_and_heads_that_are_garbage(memory: Path, seeded: Seed, what: str) -> None:
    async with scene(memory, seeded) as it:
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


# A store that attacks


ESCAPED = "buildsvc-escaped"


def entry(path: bytes, mode: int = 0o100644, **fields: object) -> cache_pb2.Entry:
    return cache_pb2.Entry(path=path, mode=mode, **fields)  # type: ignore[arg-type]


def hostile_trees() -> dict[str, cache_pb2.Tree]:
    """Trees that no honest writer makes, by what they try."""
    base = entry(b"", 0o40755)
    up = b"../" * 6 + ESCAPED.encode()
    link = entry(b"way", 0o120777, symlink=b"/tmp")
    piece = cache_pb2.Piece(chunk=0, length=9)
    stranger = cache_pb2.Piece(chunk=7, length=1)
    return {
        "climbs": cache_pb2.Tree(entries=[base, entry(up)]),
        "absolute": cache_pb2.Tree(entries=[base, entry(b"/tmp/" + ESCAPED.encode())]),
        "through a link": cache_pb2.Tree(entries=[base, link, entry(b"way/" + ESCAPED.encode())]),
        "link made twice": cache_pb2.Tree(
            entries=[base, link, entry(b"way", 0o40755), entry(b"way/" + ESCAPED.encode())]
        ),
        "hard link outside": cache_pb2.Tree(entries=[base, entry(b"a", hardlink=9)]),
        "piece beyond its chunk": cache_pb2.Tree(
            entries=[base, entry(b"a", size=9, pieces=[piece])],
            chunk_digests=chunks.digest(b"x"),
            chunk_lengths=[1],
        ),
        "piece of no chunk": cache_pb2.Tree(
            entries=[base, entry(b"a", size=1, pieces=[stranger])],
            chunk_digests=chunks.digest(b"x"),
            chunk_lengths=[1],
        ),
        "chunks that the root does not have": cache_pb2.Tree(
            entries=[base, entry(b"a", size=1, pieces=[cache_pb2.Piece(length=1)])],
            chunk_digests=chunks.digest(b"x"),
            chunk_lengths=[1],
        ),
        "no directory": cache_pb2.Tree(entries=[entry(b"")]),
        "not even a tree": cache_pb2.Tree(),
    }


async def publish(directory: Path, change: Callable[[cache_pb2.Root], None]) -> None:
    """Publish a changed copy of the newest Root, unvalidated, as the next generation."""
    newest, root = await root_of(directory)
    change(root)
    store = LocalStore(directory)
    await GenerationLog(store, KEY).publish(root, parent=newest)
    await store.close()


def add_chunk(root: cache_pb2.Root, store: Path, data: bytes) -> int:
    """Store a chunk in a pack of its own and return its number."""
    writer = PackWriter(store, target=1 << 30)
    writer.add(chunks.digest(data), chunks.encode(data), len(data))
    pack = writer.finish()
    assert pack is not None
    place = store / pack_name(pack.digest)
    place.parent.mkdir(parents=True, exist_ok=True)
    pack.path.rename(place)
    root.packs.add(digest=pack.digest, size=pack.size)
    root.chunk_digests += chunks.digest(data)
    root.chunk_packs.append(len(root.packs) - 1)
    root.chunk_offsets.append(pack.chunk_offsets[0])
    root.chunk_stored.append(pack.chunk_stored[0])
    root.chunk_lengths.append(len(data))
    return len(root.chunk_lengths) - 1


def nothing_escaped(directory: Path) -> None:
    for place in (directory, Path("/tmp"), Path.home()):
        assert not [*place.glob(f"*{ESCAPED}*")]
    assert not [*directory.rglob(f"*{ESCAPED}*")]


async def test_hostile_layers_write_nothing_anywhere(memory: Path, seeded: Seed) -> None:
    async with scene(memory, seeded) as it:
        hostile: dict[str, str] = {}

        def poison(root: cache_pb2.Root) -> None:
            layers = [s for s in root.snapshots if s.HasField("tree")]
            for number, (what, tree) in enumerate(hostile_trees().items()):
                data = tree.SerializeToString() or b"\0" * 40
                snapshot = layers[number % len(layers)]
                if snapshot.info.name in hostile.values():
                    # More attacks than layers: the rest come as layers of their own.
                    snapshot = root.snapshots.add()
                    snapshot.info.name, snapshot.info.kind = what, layers[0].info.kind
                hostile[what] = snapshot.info.name
                del snapshot.tree.tree[:], snapshot.tree.data[:]
                snapshot.tree.tree.append(add_chunk(root, it.store.directory, data))

        await publish(it.store.directory, poison)
        async with it.pod() as one:
            await one.ready()
            state = await one.until(
                lambda s: len(fetches(s, "ok")) + len(fetches(s, "failed")) == s["objects"]["total"]
            )
            assert state["restored"]["number"] == 2
            failed = {span["name"]: span["error"] for span in fetches(state, "failed")}
            assert failed.keys() == set(hostile.values()), hostile
            assert all(failed.values())
            nothing_escaped(memory)
            assert (await it.built(one, revision=1))["epoch"] == 2
            nothing_escaped(memory)


async def test_hostile_databases_write_nothing_anywhere(memory: Path, seeded: Seed) -> None:
    async with scene(memory, seeded) as it:

        def poison(root: cache_pb2.Root) -> None:
            data = hostile_trees()["climbs"].SerializeToString()
            del root.databases.tree[:], root.databases.data[:]
            root.databases.tree.append(add_chunk(root, it.store.directory, data))

        await publish(it.store.directory, poison)
        async with it.pod() as one:
            await one.ready()
            state = await it.built(one)
            # The generation before it is as good as ever: nobody goes cold for a bad one.
            assert state["restored"]["number"] == 1
            assert "cold_starts" not in state["by"]
            assert state["by"]["errors"]["CorruptObject"] == 1
            assert state["counts"].get("roots_lost", 0) == 0
            nothing_escaped(memory)


def cyclic(root: cache_pb2.Root) -> None:
    first, second = [s.info for s in root.snapshots if s.HasField("tree")][:2]
    first.parent, second.parent = second.name, first.name


def outside(root: cache_pb2.Root) -> None:
    root.chunk_offsets[0] = 1 << 40


def uneven(root: cache_pb2.Root) -> None:
    root.chunk_lengths.append(5)


def greedy(root: cache_pb2.Root) -> None:
    tree = next(s.tree for s in root.snapshots if s.HasField("tree"))
    tree.tree.extend([tree.tree[0]] * 1_000_000)


def crowded(root: cache_pb2.Root) -> None:
    root.snapshots.add().CopyFrom(root.snapshots[0])


@pytest.mark.parametrize("attack", [cyclic, outside, uneven, greedy, crowded])
async def test_a_hostile_root_is_passed_over(
    memory: Path, seeded: Seed, attack: Callable[[cache_pb2.Root], None]
) -> None:
    async with scene(memory, seeded) as it:
        await publish(it.store.directory, attack)
        async with it.pod() as one:
            await one.ready()
            state = await it.built(one)
            # The generation before it is whole.
            assert (state["restored"]["number"], state["epoch"]) == (1, 1)
            await one.published(3)


# A root that is used again


async def test_a_root_is_used_again_after_a_clean_stop(memory: Path, seeded: Seed) -> None:
    async with scene(memory, seeded) as it:
        for generation in (2, 3):
            async with it.pod() as one:
                await one.ready()
                build, archive = await it.project.build(one, 0)
                assert build.ok().ran == []
                it.project.check(archive, 0)
                await one.published(generation)
                assert await one.stop() == 0
                await one.start()
                await one.ready()
                state = await one.status()
                assert state["restored"]["number"] == generation
                assert await one.stop() == 0
                left = [path.name for path in one.epochs]
                assert len(left) == 1, left
