"""Point 3: processes race for every number of a key's log, on every kind of store."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any
from unittest import mock

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import packs
from buildsvc.cache.catalog import BlobChunks, Catalog
from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.errors import CacheError, HeadConflict, ObjectNotFound
from buildsvc.store.contract import Store
from buildsvc.store.faults import FaultyStore, LoseAnswer, Rule
from buildsvc.store.local import LocalStore
from buildsvc.store.open import open_store
from buildsvc.store.retry import RetryingStore
from perf.objectserver import ObjectServer
from tests import minio
from tests.campaign.points import Found, Part, Point, Scene
from tests.unit.cache.fakes import add_pack, write_pack
from tests.unit.store.ossserving import HOST, KEY, oss_server
from tests.unit.store.serving import serving

PUBLISHERS = 16
LOST = 0.1
"""Share of the creations whose answer a publisher does not get: it has to find out who won."""
#: Seconds after which somebody is stuck; nothing here is a measurement.
_PATIENCE = 300.0
_LOG = CacheKey("acme", "protected", "main", "linux-amd64", "buildkit-0.33")


@dataclass(frozen=True)
class Address:
    """A store, as every publisher's process opens it."""

    url: str
    environment: dict[str, str] = field(default_factory=dict)
    host: str = ""
    """Names that end so lead to this machine."""

    @contextmanager
    def opened(self) -> Iterator[Store]:
        """Open the store; not closed."""
        resolve = socket.getaddrinfo

        def resolved(name: Any, *args: Any, **kwargs: Any) -> Any:
            ours = self.host and isinstance(name, str) and name.endswith(self.host)
            return resolve("127.0.0.1" if ours else name, *args, **kwargs)

        with (
            mock.patch.dict(os.environ, self.environment),
            mock.patch("socket.getaddrinfo", resolved),
        ):
            yield RetryingStore(open_store(self.url))


@asynccontextmanager
async def _file(directory: Path) -> AsyncIterator[Address]:
    yield Address(str(directory / "store"))


@asynccontextmanager
async def _http(directory: Path) -> AsyncIterator[Address]:
    async with serving(ObjectServer(LocalStore(directory / "store")).application()) as url:
        yield Address(url)


@asynccontextmanager
async def _s3(directory: Path) -> AsyncIterator[Address]:
    with minio.running(directory) as server:
        yield Address(server.address("ci"), dict(minio.CREDENTIALS))


@asynccontextmanager
async def _oss(_: Path) -> AsyncIterator[Address]:
    async with serving(oss_server().application()) as url:
        endpoint = f"http://{HOST}:{url.rpartition(':')[2]}"
        yield Address(
            f"oss://test-bucket/ci/cache?region=cn-test&endpoint={endpoint}",
            {
                "OSS_ACCESS_KEY_ID": KEY.key_id,
                "OSS_ACCESS_KEY_SECRET": KEY.secret,
                "OSS_SESSION_TOKEN": KEY.token,
            },
            HOST,
        )


KINDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Address]]] = {
    "file": _file,
    "http": _http,
    "s3": _s3,
    "oss": _oss,
}


@dataclass
class Raced:
    """What a publisher believes: numbers that it won with their heads' digests, and the others."""

    won: dict[int, bytes] = field(default_factory=dict)
    conflicts: int = 0
    lost_answers: int = 0


_barrier: Barrier


def _meet_at(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603 - inherited by a process, which cannot be given it otherwise
    _barrier = barrier


def _race(address: Address, publisher: int, rounds: int, seed: str) -> Raced:
    try:
        with address.opened() as store, tempfile.TemporaryDirectory() as directory:
            return asyncio.run(_publish(store, publisher, rounds, seed, Path(directory)))
    except BaseException:
        # Nobody is to wait for this one.
        _barrier.abort()
        raise


async def _publish(store: Store, publisher: int, rounds: int, seed: str, directory: Path) -> Raced:
    chance = random.Random(f"{seed}/{publisher}")
    lost = [call for call in range(1, rounds + 1) if chance.random() < LOST]
    rules = [Rule("create", "*", call, LoseAnswer()) for call in lost]
    log = GenerationLog(RetryingStore(FaultyStore(store, rules)), _LOG)
    raced, newest = Raced(lost_answers=len(lost)), None
    for number in range(1, rounds + 1):
        root = await _root(store, directory, f"{publisher} in {number}")
        await asyncio.to_thread(_barrier.wait, _PATIENCE)
        try:
            mine = await log.publish(root, parent=newest)
        except HeadConflict:
            raced.conflicts += 1
        else:
            raced.won[number] = mine.digest
        newest = await log.newest()
    await store.close()
    return raced


async def _root(store: Store, directory: Path, text: str) -> cache_pb2.Root:
    """Store a pack of its own, and return the root that names it."""
    content = text.encode() * 50
    pack = await asyncio.to_thread(write_pack, directory, [content])
    await store.put_file(packs.pack_name(pack.digest), pack.path)
    catalog = Catalog()
    add_pack(catalog, pack)
    name = pack.chunk_digests
    return catalog.build_root(
        snapshots=[],
        blobs=[BlobChunks(f"sha256:{name.hex()}", len(content), 0, name)],
        databases=None,
        trace=None,
        buildkit_version="v0.33.1",
        platform="linux/amd64",
        created_unix_ns=7,
    )


async def _judge(store: Store, rounds: int, raced: list[Raced]) -> list[str]:
    """Compare what publishers believe with what is in the store."""
    misses = []
    log = GenerationLog(store, _LOG)
    newest = await log.newest_number()
    if newest != rounds:
        misses.append(f"{rounds} rounds, and the newest head is {newest}")
    parent = b""
    for number in range(1, newest + 1):
        winners = [one.won[number] for one in raced if number in one.won]
        if len(winners) != 1:
            misses.append(f"head {number}: {len(winners)} publishers believe that they won")
        try:
            generation = await log.read(number)
            root = await log.read_root(generation)
            for pack in root.packs:
                packs.verify(await store.get(packs.pack_name(pack.digest)), pack.digest)
        except (CacheError, ObjectNotFound) as error:
            misses.append(f"head {number}: published, and lost: {error}")
            continue
        if generation.digest not in winners:
            misses.append(f"head {number}: it is not the winner's")
        if generation.head.parent != parent:
            misses.append(f"head {number}: it does not continue the one before")
        parent = generation.digest
    return misses


async def race(scene: Scene, kind: str, rounds: int) -> Found:
    """Let all publishers race on an empty store of a kind."""
    async with KINDS[kind](scene.directory) as address:
        context = get_context("spawn")
        barrier = context.Barrier(PUBLISHERS)
        with ProcessPoolExecutor(PUBLISHERS, context, _meet_at, (barrier,)) as pool:
            racing = [
                asyncio.wrap_future(pool.submit(_race, address, number, rounds, scene.seed))
                for number in range(PUBLISHERS)
            ]
            raced = await asyncio.gather(*racing)
        with address.opened() as store:
            misses = await _judge(store, rounds, raced)
            await store.close()
    wins = Counter({number: len(one.won) for number, one in enumerate(raced)})
    figures = {
        "rounds": rounds,
        "generations": sum(wins.values()),
        "conflicts": sum(one.conflicts for one in raced),
        "lost_answers": sum(one.lost_answers for one in raced),
        "most_generations_of_one_publisher": max(wins.values()),
    }
    return Found(figures, misses)


def _parts(rounds: int) -> list[Part]:
    def part(kind: str) -> Part:
        return Part(kind, lambda scene: asyncio.run(race(scene, kind, rounds)))

    return [part(kind) for kind in KINDS]


POINT = Point(
    number=3,
    name="publishers",
    claim=f"{PUBLISHERS} publishers on each kind of store: one winner each time, and nothing that"
    " was published is lost.",
    unit="rounds on each kind of store",
    full=200,
    quick=20,
    parts=_parts,
    minutes="5 minutes, quick 2",
)
