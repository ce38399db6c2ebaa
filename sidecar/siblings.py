"""Which snapshots of a generation hold largely the same files as another one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2

#: Stored bytes that two snapshots must share to be worth comparing.
_LEAST_BYTES = 1 << 20
#: And the part of the one to be restored.
_LEAST_SHARE = 0.5
#: Siblings kept for each snapshot, the best first.
_KEPT = 4
#: Holders of one chunk that are looked at: bounds the work for a chunk that is everywhere.
_HOLDERS = 16


def siblings(root: cache_pb2.Root) -> dict[str, Sequence[str]]:
    """Return by name of a snapshot those from which its files can be linked, the best first.

    Only committed ones, which never change, and none that is stacked on the other.
    """
    parents = {snapshot.info.name: snapshot.info.parent for snapshot in root.snapshots}
    committed = {
        snapshot.info.name: set(snapshot.tree.data)
        for snapshot in root.snapshots
        if snapshot.info.kind == cache_pb2.SNAPSHOT_KIND_COMMITTED and snapshot.HasField("tree")
    }
    stored = list(root.chunk_stored)
    totals = {name: sum(map(stored.__getitem__, data)) for name, data in committed.items()}
    shared = _shared(
        {name: data for name, data in committed.items() if totals[name] >= _LEAST_BYTES}, stored
    )
    found: dict[str, Sequence[str]] = {}
    for name, others in shared.items():
        line = _line(name, parents)
        least = max(_LEAST_BYTES, _LEAST_SHARE * totals[name])
        good = [
            other
            for other, size in others.most_common()
            if size >= least and other not in line and name not in _line(other, parents)
        ]
        if good:
            found[name] = good[:_KEPT]
    return found


def _shared(contents: Mapping[str, set[int]], stored: Sequence[int]) -> dict[str, Counter[str]]:
    """Return the stored bytes that each pair has in common."""
    holders: defaultdict[int, list[str]] = defaultdict(list)
    for name, data in contents.items():
        for chunk in data:
            holders[chunk].append(name)
    shared: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for chunk, names in holders.items():
        for name in names[:_HOLDERS]:
            for other in names[:_HOLDERS]:
                if other != name:
                    shared[name][other] += stored[chunk]
    return shared


def _line(name: str, parents: Mapping[str, str]) -> set[str]:
    """Return the snapshot and its ancestors."""
    line: set[str] = set()
    while name:
        line.add(name)
        name = parents[name]
    return line
