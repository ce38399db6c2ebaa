"""Finding the generation to start from, and getting what the daemon needs before it starts."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.generations import Generation, GenerationLog
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.records import own_name
from buildsvc.errors import (
    CacheError,
    CorruptObject,
    KeyMismatch,
    ObjectNotFound,
    ShortObject,
    StoreError,
    StoreRefused,
    UnreadableObject,
    UnsupportedFormat,
    UntrustedHead,
)
from sidecar import cachemounts, databases
from sidecar.download import Downloads
from sidecar.paths import EpochPaths
from sidecar.plan import ObjectKey, Plan
from sidecar.slots import Urgency
from sidecar.status import ColdReason


class Cold(Exception):
    """There is nothing to start from. ``reason`` is a metric's label, the text is for people."""

    def __init__(self, reason: ColdReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


T = TypeVar("T")

#: What is wrong with a generation, not with the store; another one may be fine. A store that
#: refuses everything does not get as far as a generation.
_UNUSABLE = (CacheError, ObjectNotFound, ShortObject, StoreRefused)
#: Generations of one key that are passed over before its search ends: whoever can write can put
#: any number of them there.
_SEARCHED = 50


@dataclass(frozen=True)
class Found:
    """The generation that this pod starts from."""

    key: CacheKey
    generation: Generation
    root: cache_pb2.Root


@dataclass(frozen=True)
class PassedOver:
    """What a search did not use: a generation, or with ``number`` 0 a key that has none.

    ``name`` is the key's, with its trust domain where that is not the own one.
    """

    key: CacheKey
    name: str
    number: int
    reason: ColdReason
    problem: Exception | None = None
    """Without a traceback: what it holds may be large, and there may be many."""

    def __str__(self) -> str:
        if self.problem is None:
            return f"nothing has been published yet under {self.name}"
        return f"generation {self.number} of {self.name} cannot be used: {self.problem}"


async def locate(
    logs: Sequence[GenerationLog],
    use: Callable[[Found], Awaitable[T]],
    passed: Callable[[PassedOver], None],
) -> T:
    """Return what ``use`` makes of the newest usable generation of the first key that has one.

    A generation that cannot be read (corrupt, untrusted, of a newer format, or one of which
    ``use`` finds something corrupt or missing) is passed over for the key's older ones.
    So is one whose objects the store does not give. After ``_SEARCHED`` of them it is the next
    key's turn. ``passed`` is told of each, and of keys that have none.

    Raises:
        Cold: no key has a generation, none can be used, or the store does not answer. Of several
            generations that cannot be used, the newest one of the first key tells why.
    """
    first: PassedOver | None = None
    names = [_name(log.key, logs[0].key) for log in logs]
    for log, name in zip(logs, names, strict=True):
        skipped = _Skipped(log.key, name, passed)
        try:
            async for generation in log.candidates(skipped.add, skipped.add):
                try:
                    found = Found(log.key, generation, await log.read_root(generation))
                except _UNUSABLE as problem:
                    skipped.add(generation.number, problem)
                    continue
                try:
                    return await use(found)
                except _UNUSABLE as problem:
                    skipped.add(generation.number, problem, "corrupt-databases")
        except _Enough:
            pass
        except StoreError as problem:
            raise Cold("store-unavailable", str(problem)) from problem
        first = first or skipped.first
        if skipped.first is None:
            passed(PassedOver(log.key, name, 0, "no-generation"))
    if first is not None:
        raise Cold(first.reason, str(first))
    raise Cold("no-generation", f"nothing has been published yet under {', '.join(names)}")


def _name(key: CacheKey, own: CacheKey) -> str:
    if key.trust_domain == own.trust_domain:
        return key.name
    return f"{key.name} in trust domain {key.trust_domain}"


class _Skipped:
    """The generations of one key that are passed over."""

    def __init__(self, key: CacheKey, name: str, passed: Callable[[PassedOver], None]) -> None:
        self.first: PassedOver | None = None
        self._key = key
        self._name = name
        self._passed = passed
        self._count = 0

    def add(self, number: int, problem: Exception, reason: ColdReason = "corrupt") -> None:
        """Pass one over.

        Raises:
            _Enough: there have been too many.
        """
        why = _reason(problem, reason)
        over = PassedOver(self._key, self._name, number, why, _alone(problem))
        self.first = self.first or over
        self._count += 1
        self._passed(over)
        if self._count == _SEARCHED:
            raise _Enough


class _Enough(Exception):
    """The search through one key's generations has been long enough."""


def _alone(problem: Exception) -> Exception:
    """Return it without the frames and errors that it would keep in memory."""
    problem.__cause__ = problem.__context__ = None
    return problem.with_traceback(None)


def _reason(problem: Exception, otherwise: ColdReason) -> ColdReason:
    if isinstance(problem, UnsupportedFormat):
        return "unsupported-format"
    if isinstance(problem, StoreRefused) and not isinstance(problem, UnreadableObject):
        return "store-unavailable"
    return "untrusted" if isinstance(problem, UntrustedHead | KeyMismatch) else otherwise


@dataclass(frozen=True)
class Loadable:
    """A generation whose databases are here, in a directory that buildkitd does not know."""

    found: Found
    plan: Plan
    downloads: Downloads
    request: agent_pb2.LoadRequest
    laid: Path
    unfit: tuple[str, ...] = ()
    """Ids of the daemon's records that cannot be without what is known to be lost."""

    def place(self, root: Path) -> None:
        """Make the databases those of buildkitd's root, which is empty. Raises OSError."""
        self.laid.rename(root)


async def loadable(
    found: Found, downloads: Downloads, paths: EpochPaths, *, exclude: Sequence[str] = ()
) -> Loadable:
    """Download the databases and describe the rest to the agent.

    Contents of cache mounts that a pattern of ``exclude`` matches are no part of it. Nor is what
    the downloads know to be lost; which records have to go with that is told.

    Needs neither the namespace nor the agent, which start meanwhile. Whoever gives up waiting
    may start a daemon at once: the thread that still writes does so in a place of its own.

    Raises:
        CorruptObject, StoreError: the databases cannot be had.
        OSError: they cannot be written.
    """
    plan = await asyncio.to_thread(Plan, found.root)
    laid = await _laid(plan, downloads, paths)
    if exclude:
        plan = await asyncio.to_thread(_without_mounts, found.root, laid, exclude)
    unfit: tuple[str, ...] = ()
    if downloads.losses and (lost := await asyncio.to_thread(plan.lacking, downloads.losses)):
        plan, unfit = await asyncio.to_thread(_leave_out, plan, lost, laid)
    root_path = paths.down / "root"
    await asyncio.to_thread(root_path.write_bytes, plan.root.SerializeToString())
    request = agent_pb2.LoadRequest(root_path=str(root_path), lease_blobs=True)
    return Loadable(found, plan, downloads, request, laid, unfit)


async def find_unfit(
    ready: Loadable, lost: Sequence[ObjectKey], paths: EpochPaths
) -> tuple[frozenset[str], list[ObjectKey]]:
    """The records that cannot be without these objects, and snapshots that only they use.

    Both are those of the moment at which the generation was published.

    Raises:
        CorruptObject, StoreError: the databases cannot be had any more.
        OSError: they cannot be written.
    """
    laid = await _laid(ready.plan, ready.downloads, paths)
    try:
        records = await asyncio.to_thread(_records, laid)
        return _needing(ready.plan, lost, records)
    finally:
        await asyncio.to_thread(shutil.rmtree, laid)


async def _laid(plan: Plan, downloads: Downloads, paths: EpochPaths) -> Path:
    where = plan.databases
    tree = await downloads.content(where.tree, lambda: Urgency.DEMAND)
    content = await downloads.content(where.data, lambda: Urgency.DEMAND)
    laid = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="laid-", dir=paths.base))
    await asyncio.to_thread(databases.lay, tree, content, plan.root, laid)
    return laid


def _without_mounts(root: cache_pb2.Root, laid: Path, patterns: Sequence[str]) -> Plan:
    return Plan(cachemounts.emptied(root, cachemounts.excluded(_records(laid), patterns)))


def _leave_out(plan: Plan, lost: Sequence[ObjectKey], laid: Path) -> tuple[Plan, tuple[str, ...]]:
    """Return a plan without lost objects and what is of no use without them; its records.

    Raises:
        CorruptObject: nothing keeps the daemon from asking for one of them.
    """
    records = _records(laid)
    for key in lost:
        if not key.is_blob and own_name(key.name) not in records.ids:
            raise CorruptObject(f"{key.name} is lost, and it is not known what needs it")
    if nobodys := records.nobodys(key.name for key in lost if key.is_blob):
        databases.forget_blobs(laid, nobodys)
        plan = Plan(_without_blobs(plan.root, nobodys))
    unfit, gone = _needing(plan, lost, records)
    plan.leave_out([*lost, *gone])
    return plan, tuple(sorted(unfit))


def _without_blobs(root: cache_pb2.Root, digests: Container[str]) -> cache_pb2.Root:
    left = cache_pb2.Root()
    left.CopyFrom(root)
    del left.blobs[:]
    left.blobs.extend(blob for blob in root.blobs if blob.digest not in digests)
    return left


def _needing(
    plan: Plan, lost: Sequence[ObjectKey], records: databases.Records
) -> tuple[frozenset[str], list[ObjectKey]]:
    below = {snapshot.info.name: snapshot.info.parent for snapshot in plan.root.snapshots}
    snapshots = [key.name for key in lost if not key.is_blob]
    blobs = [key.name for key in lost if key.is_blob]
    unfit = frozenset(records.needing(snapshots, below, blobs))
    gone = [
        ObjectKey.snapshot(name)
        for name in below
        if (ids := records.ids.get(own_name(name))) and unfit.issuperset(ids)
    ]
    return unfit, gone


def _records(laid: Path) -> databases.Records:
    try:
        return databases.records(laid)
    except FileNotFoundError as error:
        raise CorruptObject("the databases do not say what the snapshots are for") from error
