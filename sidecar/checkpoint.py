"""Taking a consistent picture of an idle daemon while its clients notice nothing.

Order, and why each part is safe:

1. No build may be active (BuildKit's own list). Local contexts are pruned: their trees
   are rewritten in place by later builds while a content hash sits in a database.
2. Every tree and blob that is not in the store yet is captured, the daemon running.
3. The daemon is stopped (SIGSTOP) and the agent finishes the calls it has. If any
   snapshot call or database transaction came since step 1, something may have changed
   while it was read: go on with the daemon and begin again. A RUN step cannot begin to
   write without a Prepare or Mounts before it, and what earlier steps left running is
   ended now, so an unchanged count and no such process mean unchanged trees.
4. The databases are copied, a few megabytes; the daemon goes on.
5. The copies are checked as a scratch daemon would, captured, uploaded.

Of cache mounts that are excluded the directory itself is captured, and nothing in it is read. Which
ones these are is in the daemon's databases, so it is paused for a copy of them before.

What the format cannot hold (a tree beyond its limits) is left out. A cache mount may be empty, or
older than the rest, at any time: it gets the tree that was restored, or an empty one. A layer may
not: the records that use it, descend from it or hold it are pruned from the daemon, so that what is
published is whole, and the picture is begun again.

Packs that restoring found lost, or to have a corrupt chunk, count as not stored: what was in them
and is on disk is stored again. What is not on disk keeps its place in a pack that can be read;
snapshots whose bytes are nowhere any more are pruned like layers beyond the limits. Of blobs, one
that is a layer stays with its snapshot, which is of use without it; another (a manifest, a log) is
taken out of the copied databases, so that who starts with them gets or makes it anew. If more is
found to be lost meanwhile, the picture is begun again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.records import own_name
from sidecar import databases
from sidecar.agentclient import AgentClient
from sidecar.buildkit import LOCAL_CONTEXTS, BuildKit
from sidecar.cachemounts import Exclusion
from sidecar.capture import (
    CapturedBlob,
    CapturedTree,
    Captures,
    NotCapturedError,
    Uploads,
    named,
)
from sidecar.losses import Losses
from sidecar.pause import NotStopped, children, paused
from sidecar.stored import Stored

#: Seconds that the agent may take to finish its calls while the daemon is stopped.
_FREEZE_WITHIN = 5.0
#: Begin again this often when builds or the daemon's own collection get in between.
_ATTEMPTS = 8


class NotIdle(Exception):
    """The daemon did not hold still; the text says what came in between."""


def expect_idle(active: Collection[str], doomed: str = "") -> None:
    """Raise NotIdle if builds are running, or with why the root is about to be given up."""
    if doomed:
        raise NotIdle(doomed)
    if active:
        raise NotIdle(f"{len(active)} builds are running")


@dataclass(frozen=True)
class Picture:
    """Everything a generation holds, of one instant, with all its bytes in the store."""

    snapshots: list[tuple[cache_pb2.SnapshotInfo, CapturedTree | None]]
    blobs: list[CapturedBlob]
    databases: CapturedTree
    used: list[str]
    database_bytes: int
    #: Cache mounts that are left out, and why.
    left_out: dict[str, str]
    #: Cache mounts that are excluded, as people call them.
    excluded: list[str]
    #: Whether more has been found to be lost since: it may refer to that.
    outdated: Callable[[], bool]


@dataclass(frozen=True)
class Daemon:
    """The running buildkitd: its process and its root."""

    pid: int
    root: Path
    api: BuildKit


class Checkpointer:
    """Takes pictures of one epoch."""

    def __init__(
        self,
        daemon: Daemon,
        agent: AgentClient,
        captures: Captures,
        uploads: Uploads,
        *,
        end_strays: Callable[[], Awaitable[int]],
        restored: cache_pb2.Root | None,
        losses: Losses,
        scratch: Path,
        max_used_space: int,
        exclude: Sequence[str],
    ) -> None:
        self._daemon = daemon
        self._agent = agent
        self._captures = captures
        self._uploads = uploads
        self._stored = Stored(restored, captures, uploads.catalog, losses)
        self._end_strays = end_strays
        self._scratch = scratch
        self._max_used_space = max_used_space
        self._exclusion = Exclusion(exclude, daemon.pid, daemon.root, scratch)
        self._excluded: dict[str, str] = {}
        #: Layers that cannot be cached, and why; their records were pruned.
        self.pruned: dict[str, str] = {}

    async def take(self) -> Picture:
        """Return a picture; every chunk that it names is in the store.

        Raises:
            NotIdle: builds or the daemon's own work came in between each time.
            NotCapturedError: something needed cannot be captured, or more was lost each time.
            CorruptObject: the databases are not what a scratch daemon would accept.
            StoreError: packs could not be uploaded.
            OSError: the disk is full.
        """
        await self._expect_idle()
        if self._max_used_space:
            await self._prune(max_used_space=self._max_used_space)
        if not await self._captures.drained():
            raise NotIdle("a build has begun")
        for _ in range(_ATTEMPTS):
            picture = await self._take(await self._stored.forget_lost())
            if not picture.outdated():
                return picture
        raise NotCapturedError("more was found to be lost each time")

    async def _take(self, outdated: Callable[[], bool]) -> Picture:
        copied = self._scratch / "databases"
        why = skipped = ""
        for _ in range(_ATTEMPTS):
            await self._prune([LOCAL_CONTEXTS])
            before = await asyncio.to_thread(databases.transactions, self._daemon.root)
            await self._expect_idle()
            first = await self._agent.inspect()
            before_it = skipped
            if skipped := await self._capture_missing(first):
                if skipped == before_it:
                    raise NotCapturedError(skipped)
                why = skipped
                continue
            frozen, why = await self._freeze(first, before, copied)
            if frozen is None:
                continue
            if await asyncio.to_thread(databases.local_contexts, copied):
                why = "a local context is still in use"
                continue
            if self._stored.unknown(frozen[0]):
                why = "what was lost came back"
                continue
            left_out = await self._left_out(frozen[0], copied)
            if left_out is not None:
                return await self._finish(frozen, copied, left_out, outdated)
            why = "layers that cannot be cached were pruned"
        raise NotIdle(why)

    async def _left_out(self, state: agent_pb2.State, copied: Path) -> dict[str, str] | None:
        """Return cache mounts that are left out, or None after layers had to be pruned.

        Raises:
            NotCapturedError: a layer that cannot be captured cannot be pruned either, or no
                record is known to use it.
        """
        stored = self._stored
        lost = {s.info.name: "its bytes are lost" for s in state.snapshots if stored.lacks(s)}
        reasons = {
            s.info.name: tree.left_out
            for s in state.snapshots
            if s.info.name not in lost and (tree := stored.newest(s)) is not None and tree.left_out
        }
        if not reasons and not lost:
            return {}
        records = await asyncio.to_thread(databases.records, copied)
        mounts = records.mounts
        layers = {n: why for n, why in reasons.items() if own_name(n) not in mounts}
        layers |= lost
        if not layers:
            return reasons
        if tried := [name for name in layers if name in self.pruned]:
            raise NotCapturedError(
                f"{tried[0]}: {layers[tried[0]]}, and its record cannot be pruned"
            )
        parents = {s.info.name: s.info.parent for s in state.snapshots}
        ids = records.needing(layers, parents)
        if not ids:
            name, reason = next(iter(layers.items()))
            raise NotCapturedError(f"{name}: {reason}, and no record has it")
        self.pruned |= layers
        await self._prune([f"id=={record}" for record in ids])
        return None

    async def _prune(self, filters: Sequence[str] = (), max_used_space: int = 0) -> None:
        await asyncio.to_thread(databases.reserve, self._daemon.root)
        await self._daemon.api.prune(filters, max_used_space)

    async def _expect_idle(self) -> None:
        expect_idle(await self._daemon.api.active_builds())

    async def _capture_missing(self, state: agent_pb2.State) -> str:
        """Capture what is not in the store yet; return why something is still missing."""
        missing = [s.info for s in state.snapshots if self._stored.misses(s)]
        active = [info.name for info in missing if info.kind == cache_pb2.SNAPSHOT_KIND_ACTIVE]
        committed = [info.name for info in missing if info.name not in active]
        try:
            self._excluded = await self._exclusion.among(active)
        except NotStopped as problem:
            raise NotIdle(str(problem)) from problem
        whole = [name for name in active if name not in self._excluded]
        blobs = await self._missing_blobs(state)
        requests = []
        if committed or blobs:
            requests.append(agent_pb2.CaptureRequest(snapshots=committed, blobs=blobs))
        if whole:
            requests.append(agent_pb2.CaptureRequest(snapshots=whole, active=True))
        if self._excluded:
            bare = list(self._excluded)
            requests.append(agent_pb2.CaptureRequest(snapshots=bare, active=True, bare=True))
        skipped = [item for request in requests for item in await self._captures.capture(request)]
        return named(skipped)

    async def _missing_blobs(self, state: agent_pb2.State) -> list[str]:
        lazy = _lazy_blobs(state)
        local = await asyncio.to_thread(databases.local_blobs, self._daemon.root, lazy)
        return [digest for digest in local if not self._stored.has_blob(digest)]

    async def _freeze(
        self, first: agent_pb2.State, before: tuple[int, ...], copied: Path
    ) -> tuple[tuple[agent_pb2.State, list[str], int] | None, str]:
        """Stop the daemon, look whether anything changed, copy the databases if not."""
        if first.breaks_pending:
            return None, "a blob is being fetched"
        try:
            async with paused(self._daemon.pid):
                try:
                    state = await self._agent.freeze(_FREEZE_WITHIN)
                    if moved := await self._moved(first, before, state):
                        return None, moved
                    if missing := await self._missing_blobs(state):
                        return None, f"{len(missing)} blobs are new"
                    if strays := await self._end_strays():
                        # They may have written until now.
                        return None, f"RUN steps had left {strays} processes running"
                    blobs = await asyncio.to_thread(
                        databases.local_blobs, self._daemon.root, frozenset[str]()
                    )
                    await asyncio.to_thread(shutil.rmtree, copied, ignore_errors=True)
                    size = await asyncio.to_thread(databases.copy, self._daemon.root, copied)
                finally:
                    await self._agent.thaw()
        except NotStopped as problem:
            return None, str(problem)
        except grpc.aio.AioRpcError as problem:
            if problem.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            return None, "the agent did not come to rest"
        return (state, blobs, size), ""

    async def _moved(
        self, first: agent_pb2.State, before: tuple[int, ...], state: agent_pb2.State
    ) -> str:
        """Say what has happened since ``first``, or still does; empty for nothing."""
        if state.breaks_pending:
            return "a blob is being fetched"
        after = await asyncio.to_thread(databases.transactions, self._daemon.root)
        if state.sequence != first.sequence or after != before:
            return "the daemon was at work"
        # A build's record may end before its steps do, and some builds have none.
        running = await asyncio.to_thread(children, self._daemon.pid)
        return "a step was still running" if running else ""

    async def _finish(
        self,
        frozen: tuple[agent_pb2.State, list[str], int],
        copied: Path,
        left_out: dict[str, str],
        outdated: Callable[[], bool],
    ) -> Picture:
        state, blobs, size = frozen
        if lost := self._stored.lost_blobs(blobs):
            blobs = await asyncio.to_thread(_forget_blobs, copied, blobs, lost)
        names = frozenset(s.info.name for s in state.snapshots)
        await asyncio.to_thread(databases.verify, copied, names)
        taken = await self._captures.capture_databases(copied)
        await self._uploads.flush()
        await asyncio.to_thread(shutil.rmtree, copied)
        stored = self._stored
        stored.check(state, blobs)
        return Picture(
            snapshots=[(stored.info(s), stored.tree(s)) for s in state.snapshots],
            blobs=[stored.blob(digest) for digest in sorted(blobs)],
            databases=taken,
            used=[used.name for used in state.used],
            database_bytes=size,
            left_out=left_out,
            excluded=sorted(self._excluded.values()),
            outdated=outdated,
        )


def _forget_blobs(copied: Path, blobs: Collection[str], lost: Collection[str]) -> list[str]:
    """Forget lost ones that are no record's layer, and return those that are left."""
    if nobodys := databases.records(copied).nobodys(lost):
        databases.forget_blobs(copied, nobodys)
    return [digest for digest in blobs if digest not in nobodys]


def _lazy_blobs(state: agent_pb2.State) -> frozenset[str]:
    return frozenset(
        blob.digest for blob in state.blobs if blob.residency == agent_pb2.RESIDENCY_LAZY
    )
