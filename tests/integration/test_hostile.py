"""A store that attacks: trees, databases and roots that no honest writer makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import chunks
from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.packs import PackWriter, pack_name
from buildsvc.store.local import LocalStore
from tests.integration.seed import KEY, Seed
from tests.integration.served import fetches, root_of, scene

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("machine")]

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


async def test_hostile_layers_write_nothing_anywhere(directory: Path, seeded: Seed) -> None:
    async with scene(directory, seeded) as it:
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
            nothing_escaped(directory)
            assert (await it.built(one, revision=1))["epoch"] == 2
            nothing_escaped(directory)


async def test_hostile_databases_write_nothing_anywhere(directory: Path, seeded: Seed) -> None:
    async with scene(directory, seeded) as it:

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
            nothing_escaped(directory)


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
    directory: Path, seeded: Seed, attack: Callable[[cache_pb2.Root], None]
) -> None:
    async with scene(directory, seeded) as it:
        await publish(it.store.directory, attack)
        async with it.pod() as one:
            await one.ready()
            state = await it.built(one)
            # The generation before it is whole.
            assert (state["restored"]["number"], state["epoch"]) == (1, 1)
            await one.published(3)
