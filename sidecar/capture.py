"""Getting snapshots, blobs and databases from the agent's packer into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.catalog import Catalog
from buildsvc.cache.chunks import split_digests
from buildsvc.cache.collectionlog import CollectionLog
from buildsvc.cache.packs import pack_name
from buildsvc.errors import CacheError, StoreError
from buildsvc.failures import cause
from buildsvc.store.contract import Store
from sidecar.agentclient import AgentClient
from sidecar.plan import ObjectKey
from sidecar.status import Status
from sidecar.timeline import Kind

T = TypeVar("T")

#: Seconds that a committed snapshot waits at most for the builds' end before it is captured.
#: Idle priority is not enough: packing beside it made a cold build of half a minute a fifth longer
#: (perf/README.md), perhaps since two virtual processors share a core. A build of many minutes
#: commits more than should be left for its end.
LEFT_ALONE = 60.0

#: How an upload can end besides the store's refusals, which are kept for later.
_FAILURES = (OSError, grpc.aio.AioRpcError)


class NotCapturedError(CacheError):
    """Something that a generation needs cannot be captured; the text says what and why."""


@dataclass(frozen=True, slots=True)
class CapturedTree:
    """Chunks of a tree and of its files (32 bytes each, concatenated), and its usage.

    ``left_out``: why the format cannot hold it; then this is a stand-in with nothing in it.
    """

    tree: bytes
    data: bytes
    usage_bytes: int
    usage_inodes: int
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class CapturedBlob:
    """Chunks of a content blob (32 bytes each, concatenated)."""

    digest: str
    size: int
    mtime_ns: int
    data: bytes


class Uploads:
    """Packs on their way to the store; those that failed wait for the next ``flush``."""

    def __init__(
        self,
        store: Store,
        agent: AgentClient,
        catalog: Catalog,
        status: Status,
        concurrency: int,
        *,
        collection: int = 0,
    ) -> None:
        """``collection``: the newest one that what was restored tells of."""
        self._store = store
        self._agent = agent
        self.catalog = catalog
        self._status = status
        self._slots = asyncio.Semaphore(concurrency)
        self._failed: list[tuple[agent_pb2.PackFile, int]] = []
        #: The newest collection of the store that is known of.
        self.collection = collection
        self._trouble = asyncio.Event()
        self.bytes = 0
        self.packs = 0

    async def pack(self, pack: agent_pb2.PackFile) -> None:
        """Upload one pack, make its chunks known and let the agent delete the file.

        A pack that the store does not take is kept for ``flush``: a capture under way must
        not lose its events for it, and to the packer its chunks count as stored.
        """
        # That of the first try counts: an answer may have been lost.
        collection = self.collection
        try:
            await self._upload(pack, collection)
        except (StoreError, OSError):
            self._failed.append((pack, collection))
            self._trouble.set()

    async def learn(self) -> None:
        """Ask which collections have begun: what is uploaded after that is in none's plan.

        No upload waits for it, and the store need not answer: what is uploaded by somebody who
        knows less may have to be stored again before it is published.
        """
        with suppress(StoreError):
            self.collection = max(self.collection, await CollectionLog(self._store).newest())

    async def flush(self) -> None:
        """Try the failed ones again.

        Raises:
            StoreError: the store does not take the first of them; all that is left stays.
        """
        while self._failed:
            await self._upload(*self._failed[0])
            del self._failed[0]
        self._trouble.clear()

    async def completing(self, task: asyncio.Future[T]) -> T:
        """Wait for what can need room in the staging directory, as long as the store gives it.

        The task goes on when this raises: it must not be cut short, and the next checkpoint
        waits for it again.

        Raises:
            StoreError: the store takes no packs.
        """
        while not task.done():
            trouble = asyncio.ensure_future(self._trouble.wait())
            ends: list[asyncio.Future[Any]] = [task, trouble]
            try:
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                trouble.cancel()
            if self._trouble.is_set():
                await self.flush()
        return await task

    async def _upload(self, pack: agent_pb2.PackFile, collection: int) -> None:
        async with self._slots:
            name = pack_name(pack.digest)
            span = self._status.begin(Kind.UPLOAD, name, bytes=pack.size)
            try:
                await self._store.put_file(name, Path(pack.path))
            except StoreError as failure:
                self._status.failed(failure)
                span.end("failed", error=str(failure))
                raise
            span.end()
        self.bytes += pack.size
        self.packs += 1
        self._status.packed(pack.size)
        self.catalog.add_pack(
            pack.digest,
            pack.size,
            chunk_digests=pack.chunk_digests,
            chunk_offsets=pack.chunk_offsets,
            chunk_stored=pack.chunk_stored,
            chunk_lengths=pack.chunk_lengths,
            collection=collection,
        )
        await self._agent.release_pack(Path(pack.path))


class Captures:
    """What has been captured in this epoch, and the queue of what was committed.

    ``left_alone``: seconds for which what a build commits may wait for its end.
    """

    def __init__(
        self, agent: AgentClient, uploads: Uploads, *, left_alone: float = LEFT_ALONE
    ) -> None:
        self._agent = agent
        self._uploads = uploads
        self._left_alone = left_alone
        self.trees: dict[str, CapturedTree] = {}
        self.blobs: dict[str, CapturedBlob] = {}
        self._databases: list[CapturedTree] = []
        #: Packs that were taken as lost.
        self._forgotten: set[bytes] = set()
        #: Chunks of theirs that the agent has not been told yet.
        self._untold: list[bytes] = []
        #: Each with the time at which it waits no longer.
        self._committed: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        self._nothing_builds = asyncio.Event()
        self._nothing_builds.set()
        self._something_builds = asyncio.Event()
        self._captures: set[asyncio.Task[list[tuple[ObjectKey, str]]]] = set()

    def committed(self, name: str) -> None:
        """A snapshot can no longer change: capture it, when builds have ended or take long."""
        latest = asyncio.get_running_loop().time() + self._left_alone
        self._committed.put_nowait((name, latest))

    def builds_run(self, *, running: bool) -> None:
        """Leave the processors to builds, or no more."""
        if running:
            self._nothing_builds.clear()
            self._something_builds.set()
        else:
            self._something_builds.clear()
            self._nothing_builds.set()

    async def run(self) -> None:
        """Capture committed snapshots one after another at idle priority, until cancelled."""
        while True:
            name, latest = await self._committed.get()
            try:
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(latest):
                        await self._nothing_builds.wait()
                if name not in self.trees:
                    request = agent_pb2.CaptureRequest(snapshots=[name], idle=True)
                    await self._capture(request)
            except _FAILURES:
                # One that fails is captured by the checkpoint; a dead agent is the epoch's matter.
                continue
            finally:
                self._committed.task_done()

    async def drained(self) -> bool:
        """Wait until everything committed or asked for so far has been captured.

        Return False when a build runs first: what is still in the queue then waits for its end.

        Raises:
            StoreError: the store takes no packs, so the packer has no room to go on.
        """
        joining = asyncio.ensure_future(self._joined())
        try:
            if not await self._uploads.completing(joining):
                return False
        finally:
            joining.cancel()
        for earlier in list(self._captures):
            with suppress(*_FAILURES):
                await self._uploads.completing(earlier)
        return True

    async def capture(self, request: agent_pb2.CaptureRequest) -> list[tuple[ObjectKey, str]]:
        """Run one capture with its uploads; return what was skipped and why.

        Raises:
            StoreError: the store takes no packs; the capture goes on when it does again.
            AioRpcError: the agent is gone or could not do it.
            OSError: a pack's file cannot be read.
        """
        task = asyncio.create_task(self._capture(request), name="capture for a checkpoint")
        self._captures.add(task)
        task.add_done_callback(self._captures.discard)
        return await self._uploads.completing(task)

    async def capture_databases(self, copied: Path) -> CapturedTree:
        """Capture a copy of the databases and close the open pack.

        Raises:
            NotCapturedError: not everything asked for so far is in finished packs: the packer
                died with what was only in its open one, or cannot write packs.
            StoreError, AioRpcError, OSError: as ``capture``.
        """
        # Those of an earlier checkpoint must not stand in for these.
        self._databases.clear()
        skipped = await self.capture(
            agent_pb2.CaptureRequest(databases_dir=str(copied), flush=True)
        )
        if skipped or not self._databases:
            raise NotCapturedError(named(skipped) or "the databases")
        taken = self._databases.pop()
        if taken.left_out:
            raise NotCapturedError(f"the databases: {taken.left_out}")
        return taken

    async def forget_packs(self, digests: Collection[bytes]) -> None:
        """Take packs as lost: what is captured from now on is stored anew, as far as it was there.

        Each is lost once: one that this pod has made and stored again is not.

        Raises:
            AioRpcError: the agent is gone, or has not heard of it; the next call tells it.
        """
        if new := frozenset(digests) - self._forgotten:
            self._forgotten |= new
            self._untold += self._uploads.catalog.drop_packs(new)
        if not self._untold:
            return
        lost = frozenset(self._untold)
        await self._agent.forget(b"".join(self._untold))
        self._untold.clear()
        for name, tree in list(self.trees.items()):
            if not lost.isdisjoint(split_digests(tree.tree + tree.data)):
                del self.trees[name]
        for name, blob in list(self.blobs.items()):
            if not lost.isdisjoint(split_digests(blob.data)):
                del self.blobs[name]

    async def close(self) -> None:
        """End captures that still wait for the store; their epoch ends."""
        for task in self._captures:
            task.cancel()
        await asyncio.gather(*self._captures, return_exceptions=True)

    async def _joined(self) -> bool:
        joining = asyncio.ensure_future(self._committed.join())
        building = asyncio.ensure_future(self._something_builds.wait())
        ends: list[asyncio.Future[Any]] = [joining, building]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return joining.done()
        finally:
            for end in ends:
                end.cancel()

    async def _capture(self, request: agent_pb2.CaptureRequest) -> list[tuple[ObjectKey, str]]:
        skipped: list[tuple[ObjectKey, str]] = []
        ended: grpc.aio.AioRpcError | None = None
        try:
            async with asyncio.TaskGroup() as uploads:
                try:
                    async for event in self._agent.capture(request):
                        if event.HasField("pack"):
                            uploads.create_task(self._uploads.pack(event.pack))
                        else:
                            self._take(event, skipped)
                except grpc.aio.AioRpcError as failure:
                    # Packs under way are finished: to the agent their chunks count as stored.
                    ended = failure
        except ExceptionGroup as failures:
            raise cause(failures, _FAILURES) from None
        if ended is not None:
            raise ended
        return skipped

    def _take(self, event: agent_pb2.CaptureEvent, skipped: list[tuple[ObjectKey, str]]) -> None:
        match event.WhichOneof("event"):
            case "snapshot":
                self.trees[event.snapshot.name] = _tree(event.snapshot)
            case "databases":
                self._databases.append(_tree(event.databases))
            case "blob":
                blob = event.blob
                self.blobs[blob.digest] = CapturedBlob(
                    blob.digest, blob.size, blob.mtime_ns, blob.data_digests
                )
            case _:
                key = ObjectKey.from_proto(event.skipped.object)
                self._forget(key)
                skipped.append((key, event.skipped.reason))

    def _forget(self, key: ObjectKey) -> None:
        """Take back what the agent's packer lost and could not capture again."""
        if key.is_blob:
            self.blobs.pop(key.name, None)
        else:
            self.trees.pop(key.name, None)


def named(skipped: Sequence[tuple[ObjectKey, str]]) -> str:
    """Say what was skipped and why; the first three are enough for a log's line."""
    return "; ".join(f"{key.name or 'databases'}: {reason}" for key, reason in skipped[:3])


def _tree(message: agent_pb2.CapturedTree) -> CapturedTree:
    return CapturedTree(
        message.tree_digests,
        message.data_digests,
        message.usage_bytes,
        message.usage_inodes,
        message.left_out,
    )


def restored_trees(root: cache_pb2.Root) -> dict[str, CapturedTree]:
    """Trees that the restored generation already has, by snapshot name."""
    return {
        snapshot.info.name: CapturedTree(
            _digests(root, snapshot.tree.tree),
            _digests(root, snapshot.tree.data),
            snapshot.info.usage_bytes,
            snapshot.info.usage_inodes,
        )
        for snapshot in root.snapshots
        if snapshot.HasField("tree")
    }


def restored_blobs(root: cache_pb2.Root) -> dict[str, CapturedBlob]:
    """Blobs that the restored generation already has, by digest."""
    return {
        blob.digest: CapturedBlob(blob.digest, blob.size, blob.mtime_ns, _digests(root, blob.data))
        for blob in root.blobs
    }


def _digests(root: cache_pb2.Root, indices: Sequence[int]) -> bytes:
    return b"".join(root.chunk_digests[i * 32 : i * 32 + 32] for i in indices)
