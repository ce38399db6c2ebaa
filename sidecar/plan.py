"""What a generation holds, as objects that can be fetched one by one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.roots import ChunkTable, Location
from sidecar.losses import Losses
from sidecar.siblings import siblings


@dataclass(frozen=True, slots=True)
class ObjectKey:
    """A snapshot by its name or a blob by its digest; ``kind`` is an ``agent_pb2.ObjectKind``."""

    kind: int
    name: str

    @staticmethod
    def snapshot(name: str) -> ObjectKey:
        """Name a snapshot."""
        return ObjectKey(agent_pb2.OBJECT_KIND_SNAPSHOT, name)

    @staticmethod
    def blob(digest: str) -> ObjectKey:
        """Name a content blob."""
        return ObjectKey(agent_pb2.OBJECT_KIND_BLOB, digest)

    @staticmethod
    def from_proto(message: agent_pb2.ObjectId) -> ObjectKey:
        """Read the wire form."""
        return ObjectKey(message.kind, message.name)

    def to_proto(self) -> agent_pb2.ObjectId:
        """Return the wire form."""
        return agent_pb2.ObjectId(kind=self.kind, name=self.name)  # type: ignore[arg-type]

    @property
    def is_blob(self) -> bool:
        """Whether this is a content blob."""
        return self.kind == agent_pb2.OBJECT_KIND_BLOB


@dataclass(frozen=True, slots=True)
class Content:
    """Where an object's bytes are.

    ``tree`` is empty for blobs. ``data`` is in the order of the tree's chunk table.
    """

    tree: tuple[Location, ...]
    data: tuple[Location, ...]

    @property
    def stored(self) -> int:
        """Bytes to download for it."""
        return sum(chunk.stored for chunk in self.tree) + sum(chunk.stored for chunk in self.data)

    @property
    def needed(self) -> int:
        """Bytes that it takes on disk at most: downloaded, and laid out."""
        return self.stored + sum(chunk.length for chunk in self.data)


class Plan:
    """A Root made ready for fetching: locations, parents and the order of prefetching."""

    def __init__(self, root: cache_pb2.Root) -> None:
        self.root = root
        self._chunks = ChunkTable(root)
        self.databases = self._content(root.databases)
        self._parents = {s.info.name: s.info.parent for s in root.snapshots}
        self.contents: dict[ObjectKey, Content] = {
            ObjectKey.snapshot(snapshot.info.name): self._content(snapshot.tree)
            for snapshot in root.snapshots
            if snapshot.HasField("tree")
        }
        for blob in root.blobs:
            self.contents[ObjectKey.blob(blob.digest)] = Content((), self._locations(blob.data))
        self.siblings: dict[ObjectKey, tuple[ObjectKey, ...]] = {
            ObjectKey.snapshot(name): tuple(map(ObjectKey.snapshot, others))
            for name, others in siblings(root).items()
        }
        """By snapshot: others with largely the same files, the best first."""

    def lacking(self, losses: Losses) -> list[ObjectKey]:
        """Return the objects of which something is lost."""
        return [key for key in self.contents if self.lacks(key, losses)]

    def lacks(self, key: ObjectKey, losses: Losses) -> bool:
        """Whether something of the object is lost; not of one that is left out."""
        content = self.contents.get(key)
        return content is not None and not all(map(losses.readable, (*content.tree, *content.data)))

    def leave_out(self, keys: Iterable[ObjectKey]) -> None:
        """Do not fetch these, whoever asks for them."""
        for key in keys:
            self.contents.pop(key, None)
        self.siblings = {
            key: kept
            for key, others in self.siblings.items()
            if key in self.contents
            and (kept := tuple(other for other in others if other in self.contents))
        }

    def _locations(self, indices: Iterable[int]) -> tuple[Location, ...]:
        return tuple(self._chunks[index] for index in indices)

    def _content(self, ref: cache_pb2.TreeRef) -> Content:
        return Content(self._locations(ref.tree), self._locations(ref.data))

    def traced(self) -> list[ObjectKey]:
        """Objects that the last build used, the likeliest first."""
        return list(self._used(trace_parts(self.root.trace).likely))

    def rest(self, traced: Sequence[ObjectKey]) -> list[ObjectKey]:
        """Everything else: snapshots that the last build made, what those before it used, the rest.

        Of that the smallest come first, and snapshots before blobs. What is left behind comes last:
        a cache has more of it with each build.
        """
        parts = trace_parts(self.root.trace)
        made = [name for name in parts.made if ObjectKey.blob(name) not in self.contents]
        order = self._used((*made, *parts.earlier))
        behind = dict.fromkeys(key for key in self._used(parts.left_behind) if key not in order)
        left = sorted(self.contents, key=lambda key: (key.is_blob, self.contents[key].stored))
        order |= dict.fromkeys(key for key in left if key not in behind)
        order |= behind
        named = set(traced)
        return [key for key in order if key not in named]

    def _used(self, names: Iterable[str]) -> dict[ObjectKey, None]:
        """Return the objects that had to be there for the names to be used, in that order."""
        order: dict[ObjectKey, None] = {}
        for name in names:
            blob = ObjectKey.blob(name)
            if blob in self.contents:
                order[blob] = None
            for snapshot in self._chain(name):
                order[snapshot] = None
        return order

    def _chain(self, name: str) -> list[ObjectKey]:
        """Return the snapshot and its ancestors as far as they have a tree, bottom first.

        Mounting one needs them all, so the base that all chains share is fetched early.
        """
        chain: list[ObjectKey] = []
        while name in self._parents:
            key = ObjectKey.snapshot(name)
            if key in self.contents:
                chain.append(key)
            name = self._parents[name]
        return chain[::-1]


class TraceParts(NamedTuple):
    """Names in the order of a trace: what the next build is expected to ask for, and what not."""

    likely: list[str]
    #: By the pod that published it.
    made: list[str]
    #: What pods before it used.
    earlier: list[str]
    #: What a pod before it made, and the next one did not ask for.
    left_behind: list[str]


def trace_parts(trace: cache_pb2.Trace) -> TraceParts:
    """Return what the publishing pod used, and what is less likely; the likeliest first.

    A pod that started without a cache used layers in the order in which they were built, so
    what a rebuild asks for first came last. In a restored pod the order is that of the demands
    themselves.
    """
    used = list(trace.used)
    made = max(len(used) - trace.earlier, 0)
    earlier = min(made + trace.made, len(used))
    left_behind = max(len(used) - trace.left_behind, earlier)
    likely = used[:made]
    if trace.cold:
        likely.reverse()
    return TraceParts(likely, used[made:earlier], used[earlier:left_behind], used[left_behind:])
