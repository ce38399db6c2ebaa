"""Collections beside writers and readers, one operation of the store at a time.

Hypothesis decides who goes next, whose answers are lost or come late, who dies and what the
server's clock shows. ``BUILDSVC_MODEL_STEPS=10000`` plays that many steps,
``BUILDSVC_MODEL_ACTORS=17`` with so many at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from contextlib import suppress
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.keys import CacheKey
from buildsvc.cache.numbers import is_milestone
from buildsvc.cache.packs import pack_name
from buildsvc.cache.retention import Policy
from buildsvc.cache.roots import decode_root, root_name
from buildsvc.errors import StoreError
from tests.unit.cache.actors import (
    ITEMS,
    KEYS,
    LAG,
    Actor,
    Bucket,
    Packs,
    Reader,
    Way,
    Work,
    Writer,
    collect,
    remove,
)

T = TypeVar("T")

STEPS = int(os.environ.get("BUILDSVC_MODEL_STEPS") or 1500)
ACTORS = int(os.environ.get("BUILDSVC_MODEL_ACTORS") or 8)
MIN_AGE = 20.0
TERM = 40
POLICY = Policy(keep_last=1, min_age=MIN_AGE, heads_stay=2 * LAG)
#: Nothing but the protocol itself keeps what is in use.
HASTY = Policy(keep_last=2, max_age=3 * MIN_AGE, min_age=0.0, heads_stay=2 * LAG)
#: No operation is called so.
THE_END = "the end"
OF_WRITERS = [
    "get roots", "put packs", "put roots", "put keys", "create keys", "list collections/log",
]  # fmt: skip
OF_COLLECTORS = [
    "list packs", "create collections/log", "sleep", "list keys", "create keys", "list leases",
    "stat collections/log", "create collections/condemned", "delete",
]  # fmt: skip
#: The end comes as often as all others together.
WRITING = st.just(THE_END) | st.sampled_from(OF_WRITERS)
COLLECTING = st.just(THE_END) | st.sampled_from(OF_COLLECTORS)
REMOVING = st.sampled_from([THE_END, "create keys", "stat keys"])
READING = st.sampled_from([THE_END, "get roots", "put leases"])
MOMENTS = st.sampled_from([*OF_WRITERS, *OF_COLLECTORS])
DAY_NS = 24 * 3600 * 10**9

PLACES = st.integers(0, ACTORS - 1)
#: Many are used seldom, so that there are always some without a head.
OF_KEYS = st.sampled_from(KEYS[:2]) | st.sampled_from(KEYS)
FALLBACKS = st.sampled_from(KEYS[:2])
WAYS: st.SearchStrategy[Way] = st.sampled_from(["do"] * 8 + ["lose", "fail", "late"])


class CollectionModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.bucket = Bucket()
        self.bucket.lag = LAG
        self.packs = Packs()
        self.actors: list[Actor] = []
        self.readers: list[Reader] = []
        self.policy = POLICY

    @initialize(policy=st.sampled_from([POLICY, HASTY]))
    def start(self, policy: Policy) -> None:
        self.policy = policy

    def run(self, work: Coroutine[object, object, T]) -> T:
        return self.runner.run(work)

    def add(self, kind: str, work: Work, until: str) -> None:
        async def start() -> None:
            actor = Actor(self.bucket, kind, work)
            self.actors.append(actor)
            await actor.before(until)

        self.run(start())
        self.forget_the_done()

    def forget_the_done(self) -> None:
        self.actors = [actor for actor in self.actors if not actor.done]

    @precondition(lambda self: len(self.actors) < ACTORS)
    @rule(
        key=OF_KEYS,
        fallback=FALLBACKS,
        added=st.frozensets(st.integers(0, ITEMS - 1), min_size=1, max_size=3),
        dropped=st.frozensets(st.integers(0, ITEMS - 1), max_size=6),
        complete=st.booleans(),
        skew=st.integers(-DAY_NS, DAY_NS),
        until=WRITING,
    )
    def a_writer(
        self,
        *,
        key: CacheKey,
        fallback: CacheKey,
        added: frozenset[int],
        dropped: frozenset[int],
        complete: bool,
        skew: int,
        until: str,
    ) -> None:
        writer = Writer(self.packs, key, fallback, added, dropped, complete, skew)
        self.add("writer", writer.work, until)

    @precondition(lambda self: len(self.actors) < ACTORS)
    @rule(key=OF_KEYS, until=READING)
    def a_reader(self, key: CacheKey, until: str) -> None:
        reader = Reader(self.bucket, key, TERM)
        self.readers.append(reader)
        self.add("reader", reader.work, until)

    @precondition(lambda self: sum(actor.kind == "collector" for actor in self.actors) < 3)
    @rule(until=COLLECTING)
    def a_new_collector(self, until: str) -> None:
        self.a_collector(until)

    def a_collector(self, until: str) -> None:
        self.add("collector", lambda hand: collect(hand, self.policy, settle=LAG), until)

    @precondition(lambda self: len(self.actors) < ACTORS - 1)
    @rule(
        key=OF_KEYS,
        fallback=FALLBACKS,
        numbers=st.permutations(range(ITEMS)),
        write=st.sampled_from(OF_WRITERS),
        collect=st.sampled_from(OF_COLLECTORS),
        seconds=st.sampled_from([LAG + 1, MIN_AGE + 1]),
        first=st.booleans(),
    )
    def a_race(
        self,
        *,
        key: CacheKey,
        fallback: CacheKey,
        numbers: list[int],
        write: str,
        collect: str,
        seconds: float,
        first: bool,
    ) -> None:
        """One of each stalls where it matters; one goes on, and then the other."""
        added, dropped = frozenset(numbers[:2]), frozenset(numbers[4:])
        writer = Writer(self.packs, key, fallback, added, dropped, complete=True, skew_ns=0)
        count = len(self.actors)
        self.add("writer", writer.work, write)
        self.bucket.now += seconds
        self.a_collector(collect)
        racing = self.actors[count:]
        for actor in racing if first else reversed(racing):
            self.run(actor.finish())
            self.check()
        self.forget_the_done()

    @precondition(lambda self: self.policy is HASTY and len(self.actors) < ACTORS)
    @rule(key=OF_KEYS, until=REMOVING)
    def a_removal(self, key: CacheKey, until: str) -> None:
        """Somebody gives up what is published of a key; the other policy never loses a newest."""
        self.add("remover", lambda hand: remove(hand, key), until)

    @rule(seconds=st.sampled_from([0.0, MIN_AGE / 3, MIN_AGE]))
    def a_whole_collection(self, seconds: float) -> None:
        self.bucket.now += seconds
        self.add("collector", lambda hand: collect(hand, self.policy, settle=LAG), THE_END)

    @precondition(lambda self: self.actors)
    @rule(place=PLACES, which=PLACES, way=WAYS, more=st.integers(0, 12))
    def steps(self, place: int, which: int, way: Way, more: int) -> None:
        actor = self.actors[place % len(self.actors)]
        self.run(actor.step(which, way))
        for _ in range(more):
            if actor.done:
                break
            self.run(actor.step())
            self.check()
        self.forget_the_done()

    @precondition(lambda self: self.actors)
    @rule(place=PLACES)
    def finish(self, place: int) -> None:
        self.run(self.actors[place % len(self.actors)].finish())
        self.forget_the_done()

    @precondition(lambda self: self.actors)
    @rule(place=PLACES, what=MOMENTS)
    def stall(self, place: int, what: str) -> None:
        """One goes on to a moment that matters; others come in between."""
        self.run(self.actors[place % len(self.actors)].before(what))
        self.forget_the_done()

    @rule(order=st.permutations(range(ACTORS)))
    def all_go_on(self, order: list[int]) -> None:
        actors = [self.actors[place] for place in order if place < len(self.actors)]
        for actor in actors:
            self.run(actor.finish())
            self.check()
        self.forget_the_done()

    @precondition(lambda self: self.actors)
    @rule(place=PLACES)
    def crash(self, place: int) -> None:
        self.run(self.actors.pop(place % len(self.actors)).crash())

    @rule(seconds=st.floats(0.5, 2 * MIN_AGE))
    def advance(self, seconds: float) -> None:
        self.bucket.now += seconds

    @precondition(lambda self: self.bucket.late)
    @rule(place=PLACES)
    def a_late_write_arrives(self, place: int) -> None:
        late = self.bucket.late.pop(place % len(self.bucket.late))
        with suppress(StoreError):
            late()

    def all_heads(self, key: CacheKey) -> list[cache_pb2.Head]:
        names = [name for name in self.bucket.objects if name.startswith(key.heads_prefix)]
        return [cache_pb2.Head.FromString(self.bucket.get(name)) for name in sorted(names)]

    def heads(self, key: CacheKey) -> list[cache_pb2.Head]:
        """Those to which a reader may come, by what the heads themselves say.

        What lies between a fence and what it repeats nobody reads: an earlier fence may have been
        deleted there, and a writer's create come so late that it took its number.
        """
        heads = {head.number: head for head in self.all_heads(key)}
        read: list[cache_pb2.Head] = []
        number, oldest = max(heads, default=0), 1
        while number >= oldest:
            if (head := heads.get(number)) is not None:
                read.append(head)
                oldest = max(oldest, head.oldest_kept)
                number = head.repeats or number
            number -= 1
        return read

    def named(self) -> set[str]:
        """Names of all objects that kept heads name."""
        names = set()
        for key in KEYS:
            for head in self.heads(key):
                if head.root:
                    names |= self.named_by(head)
        return names

    def named_by(self, head: cache_pb2.Head) -> set[str]:
        name = root_name(head.root)
        assert name in self.bucket.objects, f"head {head.number} of {head.key} lost its root"
        root = decode_root(self.bucket.get(name), head.root)
        return {name, *(pack_name(pack.digest) for pack in root.packs)}

    @invariant()
    def check(self) -> None:
        missing = self.named() - self.bucket.objects.keys()
        assert not missing, f"published heads name what was deleted: {missing}"
        if self.policy is POLICY:
            for key in KEYS:
                roots = [head.root for head in self.all_heads(key)]
                assert not any(roots) or roots[-1], f"{key.text} has lost its newest generation"
        for reader in self.readers:
            if (
                self.policy is POLICY
                and reader.found is not None
                and reader.leased is not None
                and reader.leased - reader.began < MIN_AGE - LAG
                and self.bucket.now - reader.leased < TERM
            ):
                lost = self.named_by(reader.found.head) - self.bucket.objects.keys()
                assert not lost, f"a lease did not keep {lost}"

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            self.runner.close()

    def end(self) -> None:
        # Whoever stalled goes on after a collection that nobody disturbs.
        self.bucket.now += MIN_AGE
        stalled, self.actors = self.actors, []
        self.add("collector", lambda hand: collect(hand, self.policy, settle=LAG), THE_END)
        self.check()
        for actor in stalled:
            self.run(actor.finish())
            self.check()
        for late in self.bucket.late:
            with suppress(StoreError):
                late()
        self.check()
        # After all pods and leases have ended. The last one deletes the heads that others left.
        for _ in range(3):
            self.bucket.now += 2 * 24 * 3600
            self.add("collector", lambda hand: collect(hand, POLICY, settle=LAG), THE_END)
            self.check()
        left = {n for n in self.bucket.objects if n.startswith(("packs/", "roots/"))}
        assert left == self.named(), "garbage is left, or something is gone"
        assert not {
            n for n in self.bucket.objects if n.startswith(("leases/", "collections/condemned"))
        }
        for key in KEYS:
            self.check_dead(key)

    def check_dead(self, key: CacheKey) -> None:
        """Of heads that nobody reads only those are left that a search may look for."""
        heads = self.all_heads(key)
        oldest = max((head.oldest_kept for head in heads), default=0)
        fence = next((head for head in reversed(heads) if head.repeats), cache_pb2.Head())
        between = range(fence.repeats + 1, fence.number)
        dead = [h.number for h in heads if h.number < oldest or h.number in between]
        left = {number for number in dead if is_milestone(number, heads[-1].number)}
        assert set(dead) == left, f"heads are left of {key.text}: {dead}"


pytestmark = pytest.mark.timeout(120 + STEPS)

TestCollectionModel = CollectionModel.TestCase
TestCollectionModel.settings = settings(
    max_examples=max(1, STEPS // 50),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
