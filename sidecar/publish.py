"""Turning a picture into the next generation of a key."""

from __future__ import annotations

import time

from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache import publication
from buildsvc.cache.catalog import BlobChunks, Catalog, SnapshotChunks, TreeChunks
from buildsvc.cache.generations import Generation, GenerationLog
from sidecar.capture import CapturedTree
from sidecar.checkpoint import Picture
from sidecar.plan import trace_parts


def merged_trace(picture: Picture, restored: cache_pb2.Root | None) -> cache_pb2.Trace:
    """Return the order of use to publish.

    What this pod used of what it restored comes first, in its order. What it made follows,
    since the change that it was made for is likely to be followed by another one, and then
    what only earlier pods used, as long as it is still there. Last comes what an earlier pod
    made and this one did not ask for. A pod that used nothing that is left keeps what is known.
    """
    here = dict.fromkeys(info.name for info, _ in picture.snapshots)
    here |= dict.fromkeys(blob.digest for blob in picture.blobs)
    used = [name for name in picture.used if name in here]
    if restored is None:
        return cache_pb2.Trace(cold=True, used=used)
    before = trace_parts(restored.trace)
    known = {snapshot.info.name for snapshot in restored.snapshots}
    known |= {blob.digest for blob in restored.blobs}
    # Also what it made and has not read again, such as a layer's blob.
    made = [name for name in (*used, *here) if name not in known]
    if used:
        likely = [name for name in used if name in known] or used
        behind = [*before.made, *before.left_behind]
    else:
        # Nothing was asked for: that says nothing of what the pod before has made.
        likely, behind = before.likely, before.left_behind
        made += before.made
    earlier = [*before.likely, *before.earlier]
    order: dict[str, None] = {}
    counts: list[int] = []
    for part in likely, made, earlier, behind:
        had = len(order)
        order |= dict.fromkeys(name for name in part if name in here)
        counts.append(len(order) - had)
    _, newly, _, left_behind = counts
    return cache_pb2.Trace(used=order, earlier=sum(counts[1:]), made=newly, left_behind=left_behind)


class Publisher:
    """Publishes generations of one key; ``origin`` is the log of the one that was restored from."""

    def __init__(
        self,
        log: GenerationLog,
        buildkit_version: str,
        platform: str,
        origin: GenerationLog | None = None,
    ) -> None:
        self._log = log
        self._origin = origin
        self._buildkit_version = buildkit_version
        self._platform = platform

    async def publish(
        self,
        picture: Picture,
        catalog: Catalog,
        restored: cache_pb2.Root | None,
        cold_build_seconds: float,
    ) -> Generation:
        """Create the key's next head for the picture, as the newest one's child.

        Raises:
            PacksCollected: a collection may have deleted something of it.
            HeadConflict: others won each of several times.
            StoreError: the store does not take it.
        """

        def build(collection: int) -> cache_pb2.Root:
            return self._root(picture, catalog, restored, cold_build_seconds, collection)

        return await publication.publish(self._log, catalog, build, origin=self._origin)

    def _root(
        self,
        picture: Picture,
        catalog: Catalog,
        restored: cache_pb2.Root | None,
        cold_build_seconds: float,
        collection: int,
    ) -> cache_pb2.Root:
        return catalog.build_root(
            snapshots=[
                SnapshotChunks(info, _chunks(tree) if tree else None)
                for info, tree in picture.snapshots
            ],
            blobs=[
                BlobChunks(blob.digest, blob.size, blob.mtime_ns, blob.data)
                for blob in picture.blobs
            ],
            databases=_chunks(picture.databases),
            trace=merged_trace(picture, restored),
            buildkit_version=self._buildkit_version,
            platform=self._platform,
            created_unix_ns=time.time_ns(),
            cold_build_seconds=cold_build_seconds,
            collection=collection,
        )


def _chunks(tree: CapturedTree) -> TreeChunks:
    return TreeChunks(tree.tree, tree.data)
