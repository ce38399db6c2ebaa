"""The packing process as the agent sees it: captures that survive its death."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from buildsvc._proto.buildsvc.cache.v1 import cache_pb2
from buildsvc.cache.chunks import split_digests
from sidecar.agent import messages
from sidecar.agent.errors import WorkerLost
from sidecar.agent.process import Process, WorkerDied
from sidecar.agent.workers import DEATHS

if TYPE_CHECKING:
    from pathlib import Path

Events: TypeAlias = AsyncGenerator[agent_pb2.CaptureEvent, None]

#: Pack files in the staging directory at most, the open one among them.
PACKS = 6


@dataclass
class _Capture:
    """What is asked for; `done` is its last event, once there is one."""

    object: agent_pb2.ObjectId
    request: messages.CaptureTree | messages.CaptureBlob | messages.Flush
    done: agent_pb2.CaptureEvent | None = None


class PackerClient:
    """The Packer of `ports`: one process, one capture after another.

    An async context manager, as `Unpackers`. The process's open pack dies with it: then what was
    only there is not known any more, and `flush` first does again the captures that may have put
    something there. One of them that now gives something else (its directory is gone, or has
    changed) yields a `skipped` event, which takes back the event it had.

    A generator that is closed early ends the process; close it with `contextlib.aclosing`.
    """

    def __init__(self, staging: Path, *, packs: int = PACKS) -> None:
        """Keep at most `packs` pack files in the directory `staging`, where all else is removed."""
        self._staging = staging
        self._packs = packs
        self._released = asyncio.Event()
        self._lock = asyncio.Lock()
        self._process: Process | None = None
        self._known = bytearray()
        self._files: set[str] = set()
        # Captures of which something may be in the open pack, and in one that was lost.
        self._open: list[_Capture] = []
        self._lost: list[_Capture] = []

    async def __aenter__(self) -> Self:
        # The process starts with the first capture: at the agent's start, the daemon and what
        # unpacks for it need the processors more.
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def know(self, root: Path) -> None:
        """Take the chunks of a serialised `Root` as stored already. Raises OSError."""
        digests = await asyncio.to_thread(_chunk_digests, root)
        async with self._lock:
            self._known += digests
            await self._tell(messages.Know(digests))

    async def forget(self, digests: bytes) -> None:
        """Take chunks as not stored. Raises CorruptObject."""
        lost = frozenset(split_digests(digests))
        async with self._lock:
            known = split_digests(bytes(self._known))
            self._known = bytearray().join(one for one in known if one not in lost)
            await self._tell(messages.Forget(digests))

    async def _tell(self, request: messages.Know | messages.Forget) -> None:
        if self._process is None:
            return
        try:
            await self._process.send(request)
        except WorkerDied:
            # The next one is told everything when it starts.
            await self._end()

    def capture_snapshot(
        self, name: str, path: Path, *, idle: bool, again: bool, bare: bool = False
    ) -> Events:
        """Pack the directory `path`; the last event is `snapshot` or `skipped`."""
        key = agent_pb2.ObjectId(kind=agent_pb2.OBJECT_KIND_SNAPSHOT, name=name)
        remember = name if again else None
        request = messages.CaptureTree(os.fsencode(path), remember, idle, bare=bare)
        return self._capture(_Capture(key, request))

    def capture_blob(self, digest: str, path: Path, *, idle: bool) -> Events:
        """Pack one content blob; the last event is `blob` or `skipped`."""
        key = agent_pb2.ObjectId(kind=agent_pb2.OBJECT_KIND_BLOB, name=digest)
        return self._capture(_Capture(key, messages.CaptureBlob(digest, os.fsencode(path), idle)))

    def capture_directory(self, path: Path, *, idle: bool) -> Events:
        """Pack a directory of databases; the last event is `databases` or `skipped`."""
        request = messages.CaptureTree(os.fsencode(path), None, idle, fine=True)
        return self._capture(_Capture(agent_pb2.ObjectId(), request))

    async def flush(self) -> Events:
        """Close the open pack, if any, and yield it. Raises WorkerLost, StagingUnusable."""
        async with self._lock:
            for _ in range(DEATHS):
                try:
                    # Finds out whether the process has died since the last capture.
                    await self._running()
                    async with aclosing(self._flush()) as events:
                        async for event in events:
                            yield event
                except WorkerDied:
                    continue
                if not self._lost:
                    self._open.clear()
                    return
        raise WorkerLost("the packer died again and again when it had to close a pack")

    async def release(self, path: Path) -> None:
        """Delete a pack file that has been uploaded. What is no pack of ours is left alone."""
        if path.parent == self._staging and path.name in self._files:
            self._files.remove(path.name)
            try:
                await asyncio.to_thread(path.unlink, missing_ok=True)
            finally:
                # Whoever waits for room looks again, also when this call was given up.
                self._released.set()

    async def _capture(self, capture: _Capture) -> Events:
        async with self._lock, aclosing(self._persist(capture)) as events:
            async for event in events:
                yield event
            assert capture.done is not None
            yield capture.done

    async def _flush(self) -> Events:
        """Do again what may have been lost, and close the pack. Raises WorkerDied."""
        while self._lost:
            capture = self._lost.pop()
            before = capture.done
            async with aclosing(self._persist(capture)) as events:
                async for event in events:
                    yield event
            if capture.done != before:
                yield _skipped(capture, "has changed since it was captured, and was lost")
        async with aclosing(self._exchange(_Capture(_NONE, messages.Flush()))) as events:
            async for event in events:
                yield event

    async def _persist(self, capture: _Capture) -> Events:
        """Do a capture, whatever it takes; yield its packs and set `done`."""
        for _ in range(DEATHS):
            try:
                async with aclosing(self._exchange(capture)) as events:
                    async for event in events:
                        yield event
            except WorkerDied:
                continue
            return
        capture.done = _skipped(capture, f"{DEATHS} packing processes died of it")

    async def _exchange(self, capture: _Capture) -> Events:
        """Do a capture once; yield its packs and set `done`. Raises WorkerDied."""
        request = capture.request
        flushing = isinstance(request, messages.Flush)
        completed = False
        try:
            process = await self._running()
            await process.send(request)
            while isinstance(reply := await process.receive(), messages.Packed):
                self._known += reply.chunk_digests
                self._files.add(os.path.basename(os.fsdecode(reply.path)))
                self._open.clear()
                yield _pack(reply)
                # The last pack is not followed by another, so nothing has to wait for room.
                while not flushing and len(self._files) >= self._packs:
                    self._released.clear()
                    await self._released.wait()
                await process.send(messages.Proceed())
            completed = True
        finally:
            if not completed:
                await self._end()
        if isinstance(reply, messages.Failed):
            if reply.loses_pack:
                await self._end()
            if flushing:
                raise reply.error()
            capture.done = _skipped(capture, reply.text)
        elif not flushing:
            capture.done = _event(capture, reply)
            self._open.append(capture)

    async def _running(self) -> Process:
        """The process, a new one if need be. Raises WorkerDied."""
        if self._process is not None and not self._process.dead:
            return self._process
        await self._end()
        try:
            await asyncio.to_thread(_keep, self._staging, frozenset(self._files))
            self._process = await Process.start("pack", os.fspath(self._staging))
        except OSError as error:
            raise WorkerDied from error
        await self._process.send(messages.Know(bytes(self._known)))
        return self._process

    async def _end(self) -> None:
        """End the process, and with it the open pack."""
        if self._process is not None:
            process, self._process = self._process, None
            self._lost += self._open
            self._open = []
            await process.end()


_NONE = agent_pb2.ObjectId()


def _keep(directory: Path, names: frozenset[str]) -> None:
    for name in os.listdir(directory):
        if name not in names:
            os.unlink(directory / name)


def _chunk_digests(root: Path) -> bytes:
    return cache_pb2.Root.FromString(root.read_bytes()).chunk_digests


def _pack(packed: messages.Packed) -> agent_pb2.CaptureEvent:
    return agent_pb2.CaptureEvent(
        pack=agent_pb2.PackFile(
            path=os.fsdecode(packed.path),
            digest=packed.digest,
            size=packed.size,
            chunk_digests=packed.chunk_digests,
            chunk_offsets=packed.chunk_offsets,
            chunk_stored=packed.chunk_stored,
            chunk_lengths=packed.chunk_lengths,
        )
    )


def _skipped(capture: _Capture, reason: str) -> agent_pb2.CaptureEvent:
    return agent_pb2.CaptureEvent(
        skipped=agent_pb2.SkippedObject(object=capture.object, reason=reason)
    )


def _event(capture: _Capture, reply: messages.Reply) -> agent_pb2.CaptureEvent:
    if isinstance(reply, messages.BlobCaptured):
        return agent_pb2.CaptureEvent(
            blob=agent_pb2.CapturedBlob(
                digest=capture.object.name,
                size=reply.size,
                mtime_ns=reply.mtime_ns,
                data_digests=reply.data_digests,
            )
        )
    if not isinstance(reply, messages.TreeCaptured):
        raise TypeError(f"{capture.request!r} was answered by {reply!r}")
    tree = agent_pb2.CapturedTree(
        name=capture.object.name,
        tree_digests=reply.tree_digests,
        data_digests=reply.data_digests,
        usage_bytes=reply.usage_bytes,
        usage_inodes=reply.usage_inodes,
        left_out=reply.left_out,
    )
    if capture.object.kind == agent_pb2.OBJECT_KIND_SNAPSHOT:
        return agent_pb2.CaptureEvent(snapshot=tree)
    return agent_pb2.CaptureEvent(databases=tree)
