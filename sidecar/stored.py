"""What the store has of an epoch's snapshots and blobs: restored, captured, or lost since."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.catalog import Catalog
from buildsvc.cache.chunks import split_digests
from sidecar.capture import (
    CapturedBlob,
    CapturedTree,
    Captures,
    NotCapturedError,
    restored_blobs,
    restored_trees,
)
from sidecar.losses import Losses


class Stored:
    """Answers for one checkpoint."""

    def __init__(
        self,
        restored: cache_pb2.Root | None,
        captures: Captures,
        catalog: Catalog,
        losses: Losses,
    ) -> None:
        self._captures = captures
        self._catalog = catalog
        self._losses = losses
        #: The restored generation's, whole ones of which count as stored, and for what is not
        #: on disk readable ones.
        self._all_trees = restored_trees(restored) if restored else {}
        self._whole_trees = self._readable_trees = self._all_trees
        self._restored_blobs = self._all_blobs = restored_blobs(restored) if restored else {}

    async def forget_lost(self) -> Callable[[], bool]:
        """Let nothing be deduplicated against packs that were found to be lost.

        Returns:
            Whether more has been found since.

        Raises:
            AioRpcError: the agent is gone.
        """
        outdated = partial(self._losses.exceed, len(self._losses))
        if not self._losses:
            return outdated
        await self._captures.forget_packs(self._losses.suspects)
        whole, readable = self._whole, self._readable
        trees, blobs = self._all_trees, self._all_blobs
        self._whole_trees = {n: t for n, t in trees.items() if whole(t.tree + t.data)}
        self._readable_trees = {n: t for n, t in trees.items() if readable(t.tree + t.data)}
        self._restored_blobs = {n: b for n, b in blobs.items() if whole(b.data)}
        return outdated

    def _whole(self, digests: bytes) -> bool:
        catalog = self._catalog
        return all(digest in catalog for digest in split_digests(digests))

    def _readable(self, digests: bytes) -> bool:
        catalog, losses = self._catalog, self._losses
        return all(
            digest in catalog or losses.readable(catalog.locate(digest))
            for digest in split_digests(digests)
        )

    def misses(self, state: agent_pb2.SnapshotState) -> bool:
        """Whether a snapshot that can be captured has to be."""
        if state.info.kind == cache_pb2.SNAPSHOT_KIND_VIEW or self.lacks(state):
            return False
        if _is_committed(state):
            return not self._has_tree(state) and state.info.name not in self._captures.trees
        return bool(state.touched) or not self._has_tree(state)

    def unknown(self, state: agent_pb2.State) -> bool:
        """Whether anything has no tree yet, as what was lost and could be filled after all."""
        return any(
            not _is_lazy(row)
            and row.info.kind != cache_pb2.SNAPSHOT_KIND_VIEW
            and row.info.name not in self._captures.trees
            and row.info.name not in self._readable_trees
            for row in state.snapshots
        )

    def has_blob(self, digest: str) -> bool:
        """Whether the store has a blob."""
        return digest in self._captures.blobs or digest in self._restored_blobs

    def _has_tree(self, state: agent_pb2.SnapshotState) -> bool:
        """Whether the restored generation's tree is still the snapshot's.

        A committed one never changes; an active one does not unless it was mounted.
        """
        known = self._restored(state) is not None
        return known and (_is_committed(state) or not state.touched)

    def _restored(self, state: agent_pb2.SnapshotState) -> CapturedTree | None:
        """The restored generation's tree, as far as the store has it."""
        trees = self._readable_trees if _is_lazy(state) else self._whole_trees
        return trees.get(state.info.name)

    def lacks(self, state: agent_pb2.SnapshotState) -> bool:
        """Whether neither this pod nor the store has the bytes."""
        return (
            state.info.kind != cache_pb2.SNAPSHOT_KIND_VIEW
            and _is_lazy(state)
            and self._restored(state) is None
        )

    def check(self, state: agent_pb2.State, blobs: list[str]) -> None:
        """Make sure of all that is on disk: captured while a pack was found lost, it is not whole.

        Raises:
            NotCapturedError: something is not; it is captured again next time.
        """
        if not self._losses:
            return
        for row in state.snapshots:
            name, tree = row.info.name, self.tree(row)
            if tree is None or tree is self._readable_trees.get(name):
                continue
            if not self._whole(tree.tree + tree.data):
                self._captures.trees.pop(name, None)
                raise NotCapturedError(f"{name}: what it has in common with a lost pack")
        for digest in self._captures.blobs.keys() & blobs:
            if not self._whole(self.blob(digest).data):
                del self._captures.blobs[digest]
                raise NotCapturedError(f"{digest}: what it has in common with a lost pack")

    def newest(self, state: agent_pb2.SnapshotState) -> CapturedTree | None:
        """The tree of what is on disk now, which may be a stand-in; None for a view."""
        name = state.info.name
        if state.info.kind == cache_pb2.SNAPSHOT_KIND_VIEW:
            return None
        if self._has_tree(state):
            return self._restored(state)
        # One that was filled a moment ago is not captured: its chunks are what they should be.
        return self._captures.trees.get(name) or self._readable_trees[name]

    def tree(self, state: agent_pb2.SnapshotState) -> CapturedTree | None:
        """The tree to publish: of what is left out the restored one, if there is one."""
        newest = self.newest(state)
        if newest is None or not newest.left_out:
            return newest
        return self._readable_trees.get(state.info.name, newest)

    def info(self, state: agent_pb2.SnapshotState) -> cache_pb2.SnapshotInfo:
        """The row to publish: with the usage of its tree."""
        info = cache_pb2.SnapshotInfo()
        info.CopyFrom(state.info)
        if tree := self.tree(state):
            info.usage_bytes, info.usage_inodes = tree.usage_bytes, tree.usage_inodes
        return info

    def lost_blobs(self, digests: Iterable[str]) -> list[str]:
        """Which of these have bytes that are nowhere any more."""
        return [
            digest
            for digest in digests
            if not self.has_blob(digest) and not self._readable(self._all_blobs[digest].data)
        ]

    def blob(self, digest: str) -> CapturedBlob:
        """The blob to publish."""
        for known in (self._restored_blobs, self._captures.blobs):
            if digest in known:
                return known[digest]
        # Lost and not on disk: its record may be of use without it.
        return self._all_blobs[digest]


def _is_lazy(state: agent_pb2.SnapshotState) -> bool:
    return state.residency == agent_pb2.RESIDENCY_LAZY


def _is_committed(state: agent_pb2.SnapshotState) -> bool:
    return state.info.kind == cache_pb2.SNAPSHOT_KIND_COMMITTED
