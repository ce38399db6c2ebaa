"""A bucket whose every operation waits for the scheduler of a test, and those who use it.

Each actor has a ``Hand`` on the bucket. An operation is asked for, and later the test grants it,
in one of several ways; so any interleaving of operations can be played, one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import survey
from buildsvc.cache.catalog import BlobChunks, Catalog
from buildsvc.cache.chunks import digest, split_digests
from buildsvc.cache.collect import Collector
from buildsvc.cache.collectionlog import CollectionLog
from buildsvc.cache.fences import drop
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.leases import Lease
from buildsvc.cache.packs import TRAILER_SIZE, pack_name
from buildsvc.cache.publication import PacksCollected, publish
from buildsvc.cache.retention import Policy
from buildsvc.errors import (
    CacheError,
    HeadConflict,
    ObjectExists,
    ObjectNotFound,
    ShortObject,
    StoreError,
    StoreUnavailable,
)
from buildsvc.store.contract import MAX_GET, ObjectStat
from buildsvc.store.ranges import too_large

T = TypeVar("T")

Way = Literal["do", "lose", "fail", "late"]
"""Carried out; its answer lost; not carried out; not carried out now, but perhaps some time."""

LAG = 5.0
"""Seconds for which LIST may not show what was created."""


class Bucket:
    """Objects, the server's clock, and operations on their way."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.now = 1_000_000.0
        self.late: list[Callable[[], object]] = []
        self.lag = 0.0

    def get(self, name: str) -> bytes:
        if name not in self.objects:
            raise ObjectNotFound(name)
        return self.objects[name][0]

    def put(self, name: str, data: bytes) -> None:
        self.objects[name] = data, self.now

    def create(self, name: str, data: bytes) -> None:
        if name in self.objects:
            raise ObjectExists(name)
        self.put(name, data)

    def stat(self, name: str) -> ObjectStat:
        return ObjectStat(name, len(self.get(name)), self.objects[name][1])

    def list(self, prefix: str) -> list[ObjectStat]:
        return [
            ObjectStat(name, len(data), modified)
            for name, (data, modified) in sorted(self.objects.items())
            if name.startswith(prefix) and modified <= self.now - self.lag
        ]

    def delete(self, name: str) -> None:
        self.objects.pop(name, None)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Waiting:
    """An operation that was asked for."""

    what: str
    carry_out: Callable[[], object]
    answer: asyncio.Future[object]
    writes: bool


class Hand:
    """A Store of one actor."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self.waiting: list[Waiting] = []
        self.asked = asyncio.Event()

    async def _ask(self, what: str, operation: Callable[[], T], *, writes: bool = False) -> T:
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.waiting.append(Waiting(what, operation, answer, writes))
        self.asked.set()
        await answer
        result: T = answer.result()  # type: ignore[assignment]
        return result

    def grant(self, which: int, way: Way) -> None:
        """Answers one of the waiting operations."""
        one = self.waiting.pop(which % len(self.waiting))
        if not self.waiting:
            self.asked.clear()
        if one.answer.done():
            return
        if way in ("fail", "late"):
            if way == "late" and one.writes:
                self._bucket.late.append(one.carry_out)
            one.answer.set_exception(StoreUnavailable("by the test"))
            return
        try:
            result = one.carry_out()
        except StoreError as error:
            one.answer.set_exception(error)
            return
        if way == "lose":
            one.answer.set_exception(StoreUnavailable("its answer was lost"))
        else:
            one.answer.set_result(result)

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        data = await self._ask(f"get {name}", lambda: self._bucket.get(name))
        if len(data) > limit:
            raise too_large(name, limit)
        return data

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        data = (await self.get(name))[start : start + length]
        if len(data) != length:
            raise ShortObject(name)
        return data

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        raise NotImplementedError

    async def put(self, name: str, data: bytes) -> None:
        await self._ask(f"put {name}", lambda: self._bucket.put(name, data), writes=True)

    async def put_file(self, name: str, path: Path) -> None:
        raise NotImplementedError

    async def create(self, name: str, data: bytes) -> None:
        await self._ask(f"create {name}", lambda: self._bucket.create(name, data), writes=True)

    async def stat(self, name: str) -> ObjectStat:
        return await self._ask(f"stat {name}", lambda: self._bucket.stat(name))

    async def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        for stat in await self._ask(f"list {prefix}", lambda: self._bucket.list(prefix)):
            yield stat

    async def delete(self, name: str) -> None:
        await self._ask(f"delete {name}", lambda: self._bucket.delete(name), writes=True)

    async def close(self) -> None:
        return None

    async def sleep(self, seconds: float) -> None:
        """Takes that long by the server's clock."""
        await self._ask("sleep", lambda: self._bucket.sleep(seconds))


Work: TypeAlias = Callable[[Hand], Coroutine[object, object, None]]


class Actor:
    """A task that uses the bucket through a hand."""

    def __init__(self, bucket: Bucket, kind: str, work: Work) -> None:
        self.kind = kind
        self.hand = Hand(bucket)
        self._task = asyncio.ensure_future(work(self.hand))

    @property
    def done(self) -> bool:
        return self._task.done()

    async def settled(self) -> None:
        """Returns when it waits for an answer, or has ended."""
        while True:
            for _ in range(12):
                await asyncio.sleep(0)
            if self.done:
                self._task.result()
                return
            if self.hand.waiting:
                return
            asked = asyncio.ensure_future(self.hand.asked.wait())
            await asyncio.wait([self._task, asked], return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()

    async def step(self, which: int = 0, way: Way = "do") -> None:
        self.hand.grant(which, way)
        await self.settled()

    async def finish(self) -> None:
        await self.settled()
        while not self.done:
            await self.step()

    async def before(self, what: str) -> bool:
        """Goes on until the next operation begins like that, and tells whether there is one."""
        await self.settled()
        while not self.done and not self.hand.waiting[0].what.startswith(what):
            await self.step()
        return not self.done

    async def crash(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


KEYS = tuple(
    CacheKey(tenant, "protected", name, "linux-amd64", "buildkit-0.33")
    for tenant, name in (
        ("acme", "main"), ("other", "main"), *(("acme", f"branch-{n}") for n in range(4)),
    )
)  # fmt: skip


def item(number: int) -> bytes:
    return f"item {number}".encode()


class Packs:
    """Names that are never used twice, as the packer's."""

    def __init__(self) -> None:
        self._made = 0

    def next(self) -> bytes:
        self._made += 1
        return digest(f"pack {self._made}".encode())


@dataclass
class Writer:
    """A pod: restores a generation of the first key that has one, adds items and publishes."""

    packs: Packs
    key: CacheKey
    fallback: CacheKey
    added: frozenset[int]
    #: Items that it needs no longer.
    dropped: frozenset[int]
    #: Whether all that was restored is on disk.
    complete: bool
    skew_ns: int
    catalog: Catalog = field(default_factory=Catalog)
    items: set[bytes] = field(default_factory=set)
    known: int = 0
    #: The key that was restored from.
    origin: CacheKey | None = None

    def log(self, hand: Hand, key: CacheKey) -> GenerationLog:
        return GenerationLog(hand, key, now_ns=lambda: 1_700_000_000_000_000_000 + self.skew_ns)

    async def work(self, hand: Hand) -> None:
        with suppress(StoreError, HeadConflict):
            await self._restore(hand)
            # As the sidecar's uploads: once, before the first.
            self.known = await CollectionLog(hand).newest()
            self.items -= {item(number) for number in self.dropped}
            self.items |= {item(number) for number in self.added}
            for _ in range(4):
                await self.upload(hand)
                try:
                    await self._publish(hand)
                except PacksCollected as problem:
                    self._store_again(problem)
                else:
                    return

    async def _publish(self, hand: Hand) -> None:
        origin = self.log(hand, self.origin) if self.origin not in (None, self.key) else None
        await publish(self.log(hand, self.key), self.catalog, self.build, origin=origin)

    async def _restore(self, hand: Hand) -> None:
        for key in (self.key, self.fallback):
            log = self.log(hand, key)
            async for generation in log.candidates(lambda _, __: None):
                with suppress(CacheError):
                    root = await log.read_root(generation)
                    self.catalog = Catalog.from_root(root, generation.head.collection)
                    self.items = {_by_digest(one) for one in split_digests(root.chunk_digests)}
                    self.origin = key
                    return

    def packs_again(self) -> None:
        """Begins without what was restored: everything is stored anew."""
        self.catalog = Catalog()
        self.items = {item(number) for number in self.added}

    def _store_again(self, problem: PacksCollected) -> None:
        lost = self.catalog.drop_packs(problem.packs)
        self.known = max(self.known, problem.collection)
        if not self.complete:
            self.items -= {_by_digest(chunk) for chunk in lost}
            self.items |= {item(number) for number in self.added}

    async def upload(self, hand: Hand) -> None:
        missing = sorted(one for one in self.items if digest(one) not in self.catalog)
        for one in missing:
            name, size = self.packs.next(), TRAILER_SIZE + 40 + len(one)
            collection = self.known
            for attempt in range(3):
                try:
                    await hand.put(pack_name(name), bytes(size))
                except StoreUnavailable:
                    if attempt == 2:
                        raise
                else:
                    break
            self.catalog.add_pack(
                name, size,
                chunk_digests=digest(one), chunk_offsets=[0], chunk_stored=[len(one)],
                chunk_lengths=[len(one)], collection=collection,
            )  # fmt: skip

    def build(self, collection: int) -> cache_pb2.Root:
        return self.catalog.build_root(
            snapshots=[],
            blobs=[
                BlobChunks(f"sha256:{digest(one).hex()}", len(one), 0, digest(one))
                for one in self.items
            ],
            databases=None,
            trace=None,
            buildkit_version="v0.33.1",
            platform="linux/amd64",
            created_unix_ns=7,
            collection=collection,
        )


ITEMS = 12
_ITEMS = {digest(item(number)): item(number) for number in range(ITEMS)}


def _by_digest(chunk: bytes) -> bytes:
    return _ITEMS[chunk]


@dataclass
class Reader:
    """A pod that only reads, and leases what it found."""

    bucket: Bucket
    key: CacheKey
    term: int
    found: Generation | None = None
    began: float = 0.0
    leased: float | None = None

    async def work(self, hand: Hand) -> None:
        log = GenerationLog(hand, self.key)
        self.began = self.bucket.now
        with suppress(StoreError):
            async for generation in log.candidates(lambda _, __: None):
                with suppress(CacheError):
                    await log.read_root(generation)
                    lease = Lease(hand, generation.head.root, self.term)
                    await lease.renew()
                    self.found, self.leased = generation, self.bucket.now
                    return


async def collect(hand: Hand, policy: Policy, *, settle: float) -> None:
    """One run of the collector, as the command's; what the store does not do ends it."""
    collector = Collector(
        hand, lambda key: GenerationLog(hand, key), policy, settle=settle, sleep=hand.sleep
    )
    with suppress(StoreError):
        await collector.resume()
        plan = await collector.plan()
        if plan.packs or plan.roots:
            await collector.collect(plan)
        await collector.tidy(plan)


async def remove(hand: Hand, key: CacheKey) -> None:
    """Gives up what is published of the key, as the command does."""
    log = GenerationLog(hand, key)
    with suppress(StoreError):
        newest = await log.newest_number()
        if newest:
            await drop(survey.Reader(hand), log, newest + 1)
