"""Which generations a collection keeps.

Each key keeps an unbroken row of generations up to its newest one, so one number says what is
kept of it. All times are the store's.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

DAY = 24 * 3600.0


@dataclass(frozen=True)
class Policy:
    """What to keep. Times in seconds, sizes in bytes.

    ``keep_last`` generations of each key, at least one, as long as none of the limits is exceeded.
    Nothing that was published, superseded or stored less than ``min_age`` ago is collected,
    whatever the limits say.
    """

    keep_last: int = 3
    max_age: float | None = None
    """Since its publication."""
    max_size: int | None = None
    """Of the packs that the generations of a tenant name."""
    min_age: float = DAY
    heads_stay: float = DAY
    """How long heads, and entries of the log of collections, stay at least: far longer than LIST
    is behind, and than anybody is about to create one."""


@dataclass(frozen=True)
class Kept:
    """A generation that can be used."""

    number: int
    """Under which its root was published."""
    modified: float
    """When its head was created."""
    root: bytes
    packs: Mapping[bytes, int]
    """Bytes of each pack that its root names."""


@dataclass(frozen=True)
class KeyState:
    """What there is of a key."""

    id: str
    text: str
    """Empty when nobody knows."""
    tenant: str
    newest: int
    """Number of the newest head, 0 when there is none."""
    unread: Sequence[range] = ()
    """Numbers of heads to which no reader comes, by what newer heads say."""
    generations: Sequence[Kept] = field(default=())
    """Ascending."""

    @property
    def fenced(self) -> int:
        """Up to which number there was a head for each."""
        return max((numbers.stop for numbers in self.unread), default=1)


@dataclass(frozen=True)
class KeyPlan:
    """What a collection keeps of a key."""

    id: str
    key: str
    """The key's text."""
    oldest_kept: int
    """The oldest head that is kept; one more than the newest known when nothing is."""
    fenced: int
    """Up to which number there was a head for each."""
    kept: int
    """Generations that stay."""
    dropped: int
    """Generations that go."""


@dataclass(frozen=True)
class Plan:
    """What a collection is to keep and to delete."""

    keys: Sequence[KeyPlan]
    packs: bytes
    """Digests, concatenated, of what lies in the store, is old enough, and is named by no
    generation that is to be kept."""
    roots: bytes
    """The same of roots."""
    size: int
    """Bytes of all these objects."""
    heads: Sequence[str]
    """Names of heads that nobody reads since earlier collections, nor looks for."""


def oldest_kept(keys: Iterable[KeyState], policy: Policy, now: float) -> dict[str, int]:
    """The number of the oldest head to keep, for each key's id; one more than the newest known
    when nothing is kept.
    """
    rows = [_Row(key, policy, now) for key in keys]
    if policy.max_size is not None:
        for tenant in {row.key.tenant for row in rows}:
            _fit([row for row in rows if row.key.tenant == tenant], policy.max_size)
    return {row.key.id: row.oldest for row in rows}


class _Row:
    """A key's generations, of which the first ones go."""

    def __init__(self, key: KeyState, policy: Policy, now: float) -> None:
        self.key = key
        ages = [now - generation.modified for generation in key.generations]
        # A generation is current until the next one: the newest one is, from its publication on.
        current = [*ages[1:], ages[-1]] if ages else []
        # From here on nothing may go.
        self.last = next((n for n, age in enumerate(current) if age < policy.min_age), len(ages))
        self.first = min(self.last, max(0, len(ages) - policy.keep_last))
        while policy.max_age is not None and self.may_go and ages[self.first] > policy.max_age:
            self.first += 1

    @property
    def kept(self) -> Sequence[Kept]:
        return self.key.generations[self.first :]

    @property
    def may_go(self) -> bool:
        """Whether the oldest one that is kept may go."""
        return self.first < self.last

    @property
    def oldest(self) -> int:
        return self.kept[0].number if self.kept else self.key.newest + 1


def _fit(rows: Sequence[_Row], max_size: int) -> None:
    """Let the oldest generations go until the packs of the others are small enough."""
    uses = Counter(pack for row in rows for one in row.kept for pack in one.packs)
    sizes = {pack: n for row in rows for one in row.kept for pack, n in one.packs.items()}
    total = sum(sizes.values())
    heap = [(row.kept[0].modified, n) for n, row in enumerate(rows) if row.may_go]
    heapq.heapify(heap)
    while total > max_size and heap:
        row = rows[heapq.heappop(heap)[1]]
        for pack in row.kept[0].packs:
            uses[pack] -= 1
            if not uses[pack]:
                total -= sizes[pack]
        row.first += 1
        if row.may_go:
            heapq.heappush(heap, (row.kept[0].modified, rows.index(row)))
