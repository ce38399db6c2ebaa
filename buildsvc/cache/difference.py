"""What one generation has and another has not.

A snapshot keeps its own name from generation to generation, also where a branch begins from
another key's, and a blob is named by its digest. Builds that know nothing of each other give the
same step other names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from buildsvc.cache.chunks import split_digests
from buildsvc.cache.contents import Contents, Item, PackUse


@dataclass(frozen=True)
class Change:
    """An item of one generation that the other has not, or with other content. Sizes in bytes."""

    item: Item
    own: int
    """In packs, of its chunks that nothing in the other generation has."""
    before: Item | None = None
    """What it was, where both have it."""


@dataclass(frozen=True)
class Difference:
    """From one generation to the other. Sizes in bytes."""

    added: Sequence[Change]
    removed: Sequence[Change]
    changed: Sequence[Change]
    added_stored: int
    """In packs, of chunks that only the second has: what it had to store anew."""
    removed_stored: int
    """In packs, of chunks that only the first has."""
    packs_added: Sequence[PackUse]
    packs_removed: Sequence[PackUse]


def difference(before: Contents, after: Contents) -> Difference:
    """What has become of the first generation in the second."""
    old, new = _by_name(before), _by_name(after)
    only_before, only_after = _only(before, after), _only(after, before)
    return Difference(
        added=[
            Change(item, _stored(after, only_after.intersection(item.chunks)))
            for name, item in new.items()
            if name not in old
        ],
        removed=[
            Change(item, _stored(before, only_before.intersection(item.chunks)))
            for name, item in old.items()
            if name not in new
        ],
        changed=[
            Change(item, _stored(after, only_after.intersection(item.chunks)), old[name])
            for name, item in new.items()
            if name in old and old[name].content != item.content
        ],
        added_stored=_stored(after, only_after),
        removed_stored=_stored(before, only_before),
        packs_added=_packs(after, before),
        packs_removed=_packs(before, after),
    )


def _by_name(contents: Contents) -> dict[str, Item]:
    return {item.own_name: item for item in contents.items}


def _only(contents: Contents, other: Contents) -> set[int]:
    """The chunks that the other generation has not."""
    known = set(split_digests(other.root.chunk_digests))
    digests = split_digests(contents.root.chunk_digests)
    return {chunk for chunk, digest in enumerate(digests) if digest not in known}


def _stored(contents: Contents, chunks: Iterable[int]) -> int:
    return sum(map(contents.root.chunk_stored.__getitem__, chunks))


def _packs(contents: Contents, other: Contents) -> list[PackUse]:
    known = {pack.digest for pack in other.root.packs}
    return [pack for pack in contents.packs() if pack.digest not in known]
