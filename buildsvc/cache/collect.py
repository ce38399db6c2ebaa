"""Remote garbage collection: deleting what no kept generation names, while others publish.

The one thing that a store decides between two writers is who creates an object. Collections need
nothing else: no clock, no lock, and of LIST only that it shows what was there a while ago.

A collection, number E::

    1  list packs and roots; read all logs; decide what to keep: the plan
    2  create collections/log/E: collection E has begun
    3  wait for LIST, list the keys, and *fence* each: create its next head, which repeats the
       newest usable root and says ``collection = E``
    4  read all logs once more; what the plan wanted to delete and no kept head or lease names, is
       condemned: create collections/condemned/E, unless collection E+1 has begun
    5  delete it

A writer (``buildsvc.cache.publication``) publishes after head n of its key, which says
``collection = c``. Each pack that it knows has a number too: the newest collection that it knew of
before it began to upload the pack, or the ``collection`` of the head that it restored; or of that
key's newest head now, while that names the pack. It names a pack only if that number is at least c,
or head n names the pack. Where there is no head n, it makes the key known first (``keys/…/key``),
and where head n cannot be read or is missing, c is the newest collection that has begun. The head
it creates says c. Names are never used twice: a pack has a nonce, and a root the c that it was made
for. So something stored again after E has begun is not what E has listed before.

*No published head names an object that is condemned.* Say that head m of key K names the object P,
and that E condemns P: P was listed in step 1 of E.

(a) Head m says ``collection`` at least E. If its writer uploaded P, it knew of E before: but then P
    was not there in step 1, and its name was not. So P comes from a head that names it and says
    at least E: one of the key that was restored, or head m-1. Go on with that one. As heads are
    finitely many, there is a first head that says at least E and names P; it can only be a fence,
    which names what the newest usable head before it names: that is case (b).
(b) Head m says less than E. Then it was there before its key's log was read in step 4: if the key
    was listed in step 3, the fence stands behind m, because a head after one that says E says at
    least E. If the key was not listed, it was made known after step 2, so its first head's writer
    found E in the log of collections, and all its heads say at least E: case (a). So step 4 has
    seen m: either it is kept and P was not condemned, or it is older than ``oldest_kept``, and
    nobody relies on it, except readers, whom leases and the minimum age protect.

What (a) needs of (b) is that the fences' roots, and those of all heads that say at least E when
step 4 reads them, are kept: nothing between a fence and the newest head is ever dropped by E. A
later collection could; therefore step 4 ends in a look whether E+1 has begun, after all logs were
read. If it has, E gives up, having condemned nothing. If it has not, all fences of E+1 come later
than everything that E has read.

*Crashes.* Steps 1 to 4 delete nothing: what ends before step 5 is left to the next collection.
Step 5 may be done at any time, by anybody, any number of times: nothing refers to a condemned
object ever again. *Two collectors*: of two collections the earlier one gives up, or has read all
that it condemns by before the later one began.

*Heads* that are older than ``oldest_kept`` are deleted too, those between a fence and what it
repeats, and old entries of the log of collections; except for milestones
(``buildsvc.cache.numbers``), and a day after they were written: whoever found the place of one
free, and creates it so much later, creates what nobody reads.

*What is kept of a key only shrinks.* A fence says no older ``oldest_kept`` than the heads over
which it goes back to what it repeats: they may have been of a collection that is over, and what it
gave up is deleted. So does the head of somebody who gives up what a key has.

*Clocks.* The safety of generations that are published needs none. What is younger than the minimum
age is spared so that a build under way need not store again what it has stored already, and
readers can finish; that age, like those of generations and leases, is told by the store, compared
with an object that the collector has just written there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import split_digests
from buildsvc.cache.collectionlog import FORMAT_VERSION, CollectionLog
from buildsvc.cache.fences import fence, fence_unknown
from buildsvc.cache.generations import GenerationLog
from buildsvc.cache.keys import LAST_NUMBER
from buildsvc.cache.leases import ended_leases, leased_roots
from buildsvc.cache.packs import pack_name
from buildsvc.cache.retention import KeyPlan, KeyState, Plan, Policy, oldest_kept
from buildsvc.cache.roots import MAX_STORED, decode_root, root_name
from buildsvc.cache.several import each
from buildsvc.cache.survey import Listed, Logs, Reader, listed_digests, listed_keys, no_times
from buildsvc.errors import (
    CacheError,
    CorruptObject,
    ObjectNotFound,
    UnreadableObject,
    UnsupportedFormat,
)

if TYPE_CHECKING:
    from buildsvc.store.contract import Store

SETTLE = 30.0
"""Seconds after which LIST is taken to show what was there before."""

_CLOCK = "collections/clock"

T = TypeVar("T")
R = TypeVar("R")


def _silent(_: str, __: int, ___: int) -> None:
    """Progress that nobody looks at."""


class Collector:
    """Collects one store. Methods raise StoreError, and UnsupportedFormat, UntrustedHead or
    CorruptObject where it cannot be known what is in use: then nothing is deleted.

    ``progress`` is told what is being done, how much of it is done, and of how much.
    """

    def __init__(
        self,
        store: Store,
        logs: Logs,
        policy: Policy,
        *,
        settle: float = SETTLE,
        progress: Callable[[str, int, int], None] = _silent,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._logs = logs
        self._policy = policy
        self._settle = settle
        self._progress = progress
        self._sleep = sleep
        self._collections = CollectionLog(store)

    async def plan(self) -> Plan:
        """What a collection would keep and delete now. Writes nothing but its clock's object."""
        now = await self._now()
        packs = await self._old("packs/", now)
        roots = await self._old("roots/", now)
        states, dead = await self._survey(now)
        oldest = oldest_kept(states, self._policy, now)
        kept_packs, kept_roots = await self._leased(now)
        keys = []
        for state in states:
            kept = [one for one in state.generations if one.number >= oldest[state.id]]
            keys.append(
                KeyPlan(
                    id=state.id,
                    key=state.text,
                    oldest_kept=oldest[state.id],
                    fenced=state.fenced,
                    kept=len(kept),
                    dropped=len(state.generations) - len(kept),
                )
            )
            for one in kept:
                kept_packs.update(one.packs)
                kept_roots.add(one.root)
        size = sum(size for digest, size in packs.items() if digest not in kept_packs)
        size += sum(size for digest, size in roots.items() if digest not in kept_roots)
        return Plan(
            keys=keys,
            packs=_column(packs.keys() - kept_packs),
            roots=_column(roots.keys() - kept_roots),
            size=size,
            heads=dead,
        )

    async def collect(self, plan: Plan) -> cache_pb2.Condemned | None:
        """Carries out a plan; what was deleted, None when a later collection has begun."""
        number = await self._collections.begin(time.time_ns())
        condemned = await self._mark(number, plan)
        return None if condemned is None else await self._delete(number, condemned)

    async def resume(self) -> list[cache_pb2.Condemned]:
        """Deletes what collections have condemned that did not come to their end; what it was."""
        done = []
        for number in await self._collections.unfinished():
            try:
                condemned = await self._collections.condemned(number)
            except UnsupportedFormat:
                # A later version's collector knows what to do with it.
                continue
            except (CorruptObject, UnreadableObject):
                # All that a collector wrote there is found again.
                await self._collections.done(number)
                continue
            if condemned is not None:
                done.append(await self._delete(number, await self._checked(condemned)))
        return done

    async def tidy(self, plan: Plan) -> None:
        """Deletes heads and entries that nobody reads any more, and leases that have ended."""
        now = await self._now()
        ended = await ended_leases(self._store, now)
        entries = await self._collections.dead(now - self._policy.heads_stay)
        await self._each("tidying", [*plan.heads, *ended, *entries], self._store.delete)

    async def _checked(self, condemned: cache_pb2.Condemned) -> cache_pb2.Condemned:
        """Without what is young or in use. Nothing of it should be; but pods may not delete, and
        somebody with a pod's rights could have put the object there.
        """
        now = await self._now()
        old_packs = await self._old("packs/", now)
        old_roots = await self._old("roots/", now)
        reader = Reader(self._store)
        keys = await self._each("reading keys", await listed_keys(self._store), reader.find_key)
        logs = [self._logs(key) for key in keys if key is not None]
        packs, roots = await self._kept(reader, logs)
        return cache_pb2.Condemned(
            packs=_column((old_packs.keys() & split_digests(condemned.packs)) - packs),
            roots=_column((old_roots.keys() & split_digests(condemned.roots)) - roots),
        )

    async def _mark(self, number: int, plan: Plan) -> cache_pb2.Condemned | None:
        """Steps 3 and 4; None when a later collection has begun."""
        await self._sleep(self._settle)
        planned = {key.id: key for key in plan.keys}
        reader = Reader(self._store)

        async def fence_one(listed: Listed) -> GenerationLog | None:
            if (key := await reader.find_key(listed)) is None:
                await fence_unknown(self._store, listed)
                return None
            log = self._logs(key)
            known = planned.get(listed.id)
            oldest, fenced = (known.oldest_kept, known.fenced) if known else (1, 1)
            for below in (LAST_NUMBER + 1, *listed.gaps(fenced)):
                await fence(reader, log, number, oldest, below=below)
            return log

        logs = await self._each("fencing keys", await listed_keys(self._store), fence_one)
        packs, roots = await self._kept(reader, [log for log in logs if log is not None])
        if await self._collections.newest() != number:
            return None
        condemned = cache_pb2.Condemned(
            format_version=FORMAT_VERSION,
            packs=_column(set(split_digests(plan.packs)) - packs),
            roots=_column(set(split_digests(plan.roots)) - roots),
        )
        await self._collections.condemn(number, condemned)
        return condemned

    async def _kept(
        self, reader: Reader, logs: Sequence[GenerationLog]
    ) -> tuple[set[bytes], set[bytes]]:
        """Packs and roots that kept heads and leases name."""
        packs, roots = await self._leased(await self._now())

        async def mark(log: GenerationLog) -> None:
            async for generation, named in reader.usable(log):
                packs.update(named)
                roots.add(generation.head.root)

        await self._each("marking what is kept", logs, mark)
        return packs, roots

    async def _delete(self, number: int, condemned: cache_pb2.Condemned) -> cache_pb2.Condemned:
        """Step 5. Roots go first: what is left after a crash names nothing that is gone."""
        roots = map(root_name, split_digests(condemned.roots))
        packs = map(pack_name, split_digests(condemned.packs))
        await self._each("deleting roots", roots, self._store.delete)
        await self._each("deleting packs", packs, self._store.delete)
        await self._collections.done(number)
        return condemned

    async def _each(
        self, what: str, items: Iterable[T], work: Callable[[T], Awaitable[R]]
    ) -> list[R]:
        return await each(items, work, partial(self._progress, what))

    async def _survey(self, now: float) -> tuple[list[KeyState], list[str]]:
        """What there is of each key, and names of heads that nobody reads any more."""
        reader = Reader(self._store)

        async def look(listed: Listed) -> KeyState | None:
            key = await reader.find_key(listed)
            return None if key is None else await reader.state(self._logs(key), listed)

        keys = await listed_keys(self._store)
        states = await self._each("reading keys", keys, look)
        dead: list[str] = []
        for listed, state in zip(keys, states, strict=True):
            # Of a key that nobody can name no head can be read.
            unread = state.unread if state else [range(1, max(listed.heads, default=1))]
            dead += listed.dead(unread, now - self._policy.heads_stay)
        return [state for state in states if state is not None], dead

    async def _leased(self, now: float) -> tuple[set[bytes], set[bytes]]:
        """Packs and roots under leases."""
        leased = await leased_roots(self._store, now)
        packs: set[bytes] = set()

        async def read(digest: bytes) -> None:
            with suppress(ObjectNotFound, UnreadableObject, CacheError):
                stored = await self._store.get(root_name(digest), limit=MAX_STORED)
                packs.update(pack.digest for pack in decode_root(stored, digest).packs)

        await self._each("reading leases", sorted(leased), read)
        return packs, leased

    async def _old(self, prefix: str, now: float) -> dict[bytes, int]:
        """Sizes of packs or roots that are old enough, by digest."""
        old: dict[bytes, int] = {}
        async for digest, stat in listed_digests(self._store, prefix):
            if stat.modified is None:
                raise no_times()
            if now - stat.modified >= self._policy.min_age:
                old[digest] = stat.size
        return old

    async def _now(self) -> float:
        """The store's time."""
        await self._store.put(_CLOCK, b"")
        modified = (await self._store.stat(_CLOCK)).modified
        if modified is None:
            raise no_times()
        return modified


def _column(digests: Iterable[bytes]) -> bytes:
    return b"".join(sorted(digests))
