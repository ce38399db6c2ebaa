"""Whether all that a generation needs is in the store, and what it costs where it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeVar

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import decode
from buildsvc.cache.contents import Contents, Item
from buildsvc.cache.fetch import parts, read_run, runs
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.lookup import check_kept
from buildsvc.cache.packs import pack_name
from buildsvc.cache.records import Record
from buildsvc.cache.roots import ChunkTable, Location, root_name
from buildsvc.cache.several import each
from buildsvc.cache.steps import generation_records, read_tree
from buildsvc.errors import CorruptObject, ObjectNotFound, ShortObject, UnreadableObject

if TYPE_CHECKING:
    from buildsvc.store.contract import Store

T = TypeVar("T")

_READS = 4  # of a run each
#: What is wrong with one object, and not with the store.
_OF_ONE_OBJECT = (ObjectNotFound, ShortObject, UnreadableObject)


@dataclass(frozen=True)
class Problem:
    """Something that is not what it should be."""

    kind: Literal["head", "root", "pack", "tree", "databases"]
    name: str
    """The object's in the store, or the snapshot's that a tree is of."""
    what: str
    lost: Sequence[Item] = ()
    """What cannot be had, or not whole."""


@dataclass
class Verified:
    """What was looked at, and what was found. Sizes in bytes."""

    packs: int = 0
    bytes: int = 0
    """Of the packs."""
    chunks: int = 0
    """Read, and compared with their digests."""
    reread: int = 0
    """Answers that were wrong once: something corrupts data on the way."""
    usable: bool = True
    """Whether a pod can start from the generation, with what is left of it."""
    problems: list[Problem] = field(default_factory=list)


async def verify(
    store: Store,
    log: GenerationLog,
    generation: Generation,
    *,
    deep: bool,
    progress: Callable[[str, int, int], None],
) -> Verified:
    """Looks at each object that the generation needs; with ``deep`` reads every chunk and tree.

    Raises StoreError, UnsupportedFormat, NotPublished when it is collected meanwhile.
    """
    return await _Verifier(store, log, generation, progress).verify(deep=deep)


class _Pack:
    """A pack, with what is found of it."""

    def __init__(self, digest: bytes, size: int) -> None:
        self.name = pack_name(digest)
        self.size = size
        self.wrong = ""
        self.is_missing = False
        self.lost: set[int] = set()


class _Verifier:
    def __init__(
        self,
        store: Store,
        log: GenerationLog,
        generation: Generation,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._store = store
        self._log = log
        self._generation = generation
        self._progress = progress
        self._done = Verified()

    async def verify(self, *, deep: bool) -> Verified:
        root = await self._root()
        if root is not None:
            await self._verify_root(root, deep=deep)
        if self._done.problems:
            await check_kept(self._log, self._generation)
        return self._done

    async def _root(self) -> cache_pb2.Root | None:
        try:
            return await self._twice(lambda: self._log.read_root(self._generation))
        except CorruptObject as error:
            name = root_name(self._generation.head.root)
            self._done.problems.append(Problem("root", name, str(error)))
            self._done.usable = False
            return None

    async def _twice(self, read: Callable[[], Awaitable[T]]) -> T:
        """Reads again what is not what it should be: the answer may have been wrong."""
        try:
            return await read()
        except (CorruptObject, *_OF_ONE_OBJECT):
            found = await read()
        self._done.reread += 1
        return found

    async def _verify_root(self, root: cache_pb2.Root, *, deep: bool) -> None:
        packs = [_Pack(pack.digest, pack.size) for pack in root.packs]
        await self._stat(packs)
        if deep:
            await self._read(root, packs)
        else:
            of_pack = _chunks_of(root)
            for number, pack in enumerate(packs):
                pack.lost.update(of_pack[number] if pack.wrong else ())
        lost = {chunk for pack in packs for chunk in pack.lost}
        trees: dict[str, str] = {}
        records: list[Record] = []
        if lost or deep or any(pack.wrong for pack in packs):
            trees, records = await self._trees(root, lost, deep=deep)
        contents = Contents(root, records)
        for pack in packs:
            if pack.wrong or pack.lost:
                self._done.problems.append(
                    Problem(
                        "pack", pack.name, pack.wrong or _count(pack), _hit(contents, pack.lost)
                    )
                )
        for item in contents.items:
            if item.name in trees:
                kind: Literal["tree", "databases"] = (
                    "databases" if item.kind == "databases" else "tree"
                )
                self._done.problems.append(Problem(kind, item.name, trees[item.name], [item]))
        self._done.usable = not any(
            item.kind == "databases" for problem in self._done.problems for item in problem.lost
        )

    async def _stat(self, packs: Sequence[_Pack]) -> None:
        async def stat(pack: _Pack) -> None:
            self._progress("looking at packs", self._done.packs, len(packs))
            try:
                found = await self._store.stat(pack.name)
            except ObjectNotFound:
                pack.wrong, pack.is_missing = "it is missing", True
            else:
                if found.size != pack.size:
                    pack.wrong = f"it has {found.size} bytes instead of {pack.size}"
            self._done.packs += 1
            self._done.bytes += pack.size

        await each(packs, stat)

    async def _read(self, root: cache_pb2.Root, packs: Sequence[_Pack]) -> None:
        """Reads and compares every chunk."""
        table = ChunkTable(root)
        numbers = {table[chunk].digest: chunk for chunk in range(len(table))}
        by_digest = {pack.digest: found for pack, found in zip(root.packs, packs, strict=True)}

        async def read(run: list[Location]) -> None:
            pack = by_digest[run[0].pack]
            self._progress("reading chunks", self._done.chunks, len(table))
            lost = run if pack.is_missing else await self._bad(run)
            pack.lost.update(numbers[at.digest] for at in lost)
            self._done.chunks += 0 if pack.is_missing else len(run)

        await each(runs(map(table.__getitem__, range(len(table)))), read, at_a_time=_READS)

    async def _bad(self, run: list[Location]) -> list[Location]:
        """The chunks of a run that cannot be had."""
        suspects, wrong_once = run, 0
        try:
            stored = await read_run(self._store, run)
        except _OF_ONE_OBJECT:
            pass
        else:
            suspects, wrong_once = await asyncio.to_thread(_mismatches, run, stored), 1
        lost = []
        for at in suspects:
            # Once more, and alone: of a pack that ends early what is before its end is there.
            try:
                stored = await read_run(self._store, [at])
                await asyncio.to_thread(decode, stored, at.length, at.digest)
            except (*_OF_ONE_OBJECT, CorruptObject):
                lost.append(at)
            else:
                self._done.reread += wrong_once
        return lost

    async def _trees(
        self, root: cache_pb2.Root, lost: set[int], *, deep: bool
    ) -> tuple[dict[str, str], list[Record]]:
        """What is wrong with trees, by the name of what they are of, and the records."""
        wrong: dict[str, str] = {}
        records: list[Record] = []
        table = ChunkTable(root)
        for done, snapshot in enumerate(root.snapshots if deep else ()):
            self._progress("reading trees", done, len(root.snapshots))
            if snapshot.HasField("tree") and lost.isdisjoint(snapshot.tree.tree):
                try:
                    await self._twice(partial(read_tree, self._store, table, snapshot.tree))
                except (CorruptObject, *_OF_ONE_OBJECT) as error:
                    wrong[snapshot.info.name] = str(error)
        if lost.isdisjoint([*root.databases.tree, *root.databases.data]):
            try:
                records = await self._twice(lambda: generation_records(self._store, root))
            except (CorruptObject, *_OF_ONE_OBJECT) as error:
                wrong["databases"] = str(error)
        return wrong, records


def _chunks_of(root: cache_pb2.Root) -> list[list[int]]:
    """The chunks in each pack."""
    chunks: list[list[int]] = [[] for _ in root.packs]
    for chunk, pack in enumerate(root.chunk_packs):
        chunks[pack].append(chunk)
    return chunks


def _mismatches(run: list[Location], stored: bytes) -> list[Location]:
    bad = []
    for at, part in parts(run, stored):
        try:
            decode(part, at.length, at.digest)
        except CorruptObject:
            bad.append(at)
    return bad


def _count(pack: _Pack) -> str:
    return f"{len(pack.lost)} of its chunks are not what they should be"


def _hit(contents: Contents, lost: Iterable[int]) -> list[Item]:
    """What has one of these chunks."""
    lost = set(lost)
    return [item for item in contents.items if not lost.isdisjoint(item.chunks)]
