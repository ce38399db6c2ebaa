"""Which snapshots count as holding the same files."""

from __future__ import annotations

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from sidecar.plan import ObjectKey, Plan
from sidecar.siblings import siblings

MB = 1 << 20


class _Root:
    """A root whose chunks are a megabyte each."""

    def __init__(self, stored: int = MB) -> None:
        self.root = cache_pb2.Root(packs=[cache_pb2.Pack(digest=b"p" * 32, size=1 << 40)])
        for chunk in range(40):
            self.root.chunk_digests += bytes([chunk]) * 32
            self.root.chunk_packs.append(0)
            self.root.chunk_offsets.append(chunk * stored)
            self.root.chunk_stored.append(stored)
            self.root.chunk_lengths.append(stored)

    def add(
        self,
        name: str,
        data: range,
        parent: str = "",
        kind: cache_pb2.SnapshotKind.ValueType = cache_pb2.SNAPSHOT_KIND_COMMITTED,
    ) -> None:
        info = cache_pb2.SnapshotInfo(name=name, parent=parent, kind=kind)
        self.root.snapshots.add(info=info, tree=cache_pb2.TreeRef(tree=[39], data=data))

    @property
    def siblings(self) -> dict[str, list[str]]:
        return {name: list(others) for name, others in siblings(self.root).items()}


def test_two_layers_with_the_same_content_are_each_others() -> None:
    made = _Root()
    made.add("base", range(30, 35))
    made.add("venv", range(10), "base")
    made.add("copy", range(10), "base")
    assert made.siblings == {"venv": ["copy"], "copy": ["venv"]}
    plan = Plan(made.root)
    assert plan.siblings[ObjectKey.snapshot("venv")] == (ObjectKey.snapshot("copy"),)


def test_half_of_what_is_to_be_restored_must_be_shared() -> None:
    made = _Root()
    made.add("all", range(20))
    made.add("part", range(6))
    assert made.siblings == {"part": ["all"]}


def test_the_best_comes_first() -> None:
    made = _Root()
    made.add("a", range(10))
    made.add("b", range(6))
    made.add("c", range(1, 10))
    assert made.siblings["a"] == ["c", "b"]


def test_what_is_stacked_is_not_a_sibling() -> None:
    made = _Root()
    made.add("below", range(10))
    made.add("between", range(30, 31), "below")
    made.add("above", range(10), "between")
    assert made.siblings == {}


def test_what_can_change_is_not_a_sibling() -> None:
    made = _Root()
    made.add("committed", range(10))
    made.add("active", range(10), kind=cache_pb2.SNAPSHOT_KIND_ACTIVE)
    assert made.siblings == {}


def test_little_is_not_worth_it() -> None:
    made = _Root(stored=1000)
    made.add("a", range(10))
    made.add("b", range(10))
    assert made.siblings == {}


def test_a_chunk_that_is_everywhere_is_looked_at_some_times_only() -> None:
    made = _Root()
    for number in range(300):
        made.add(f"s{number}", range(5))
    found = made.siblings
    assert 2 <= len(found) < 300
    assert all(len(others) <= 4 for others in found.values())
