"""The content blobs of a restored root: leased files, or files that appear when they are whole."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING

from buildsvc._proto.buildsvc.agent.v1 import agent_pb2
from sidecar.agent import leases
from sidecar.agent.index import NotFound
from sidecar.agent.ports import BlobSpec, FillResult
from sidecar.agent.staged import StagedChunk, read_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor
    from pathlib import Path

    from sidecar.agent.leases import LeasedBlobs

CONTENT = "runc-overlayfs/content/blobs"
"""Where buildkitd's OCI worker keeps its content, below its root."""


class ContentBlobs:
    """The Blobs of `ports`. Without `leased` no blob can be there before its bytes are."""

    def __init__(
        self, buildkit_root: Path, scratch: Path, leased: LeasedBlobs | None, executor: Executor
    ) -> None:
        self._content = buildkit_root / CONTENT
        self._scratch = scratch
        self._leased = leased
        self._executor = executor
        self._known: dict[str, BlobSpec] = {}
        self._lazy: set[str] = set()

    async def place(self, blobs: Sequence[BlobSpec], *, leased: bool) -> tuple[int, str]:
        """Make blobs known; how many are leased, and why not all of them. Raises OSError."""
        await asyncio.to_thread(self._make_directories, blobs)
        self._known.update((each.digest, each) for each in blobs)
        self._lazy.update(each.digest for each in blobs)
        if not (leased and blobs):
            return 0, "" if not blobs else "leases are switched off"
        if self._leased is None:
            return 0, "no guard process would hold copies of the leases"
        if reason := await leases.probe(self._content):
            return 0, reason
        self._leased.start()
        left_out = self._leased.place(
            leases.Blob(each.digest, self.path(each.digest), each.size, each.mtime_ns)
            for each in blobs
        )
        reason = f"no descriptors left for {len(left_out)} blobs" if left_out else ""
        return len(blobs) - len(left_out), reason

    def chunks(self, digest: str) -> int:
        """How many chunks the blob has. Raises NotFound."""
        return len(self._spec(digest).chunk_lengths)

    async def fill(self, digest: str, segment: agent_pb2.Segment) -> FillResult:
        """Verify and write the chunks of a segment, in a thread: blobs are few.

        Raises CorruptObject, NotFound, OSError.
        """
        spec = self._spec(digest)
        leased = self._leased is not None and self._leased.holds(digest)
        if leased:
            assert self._leased is not None
            # A copy, because the lease may end with its blob while a thread writes.
            descriptor = os.dup(self._leased.descriptor(digest))
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            descriptor = await asyncio.to_thread(os.open, self._part(digest), flags, 0o600)
        try:
            writing = self._executor.submit(_write, descriptor, spec, segment)
        except RuntimeError:
            os.close(descriptor)
            raise
        # The descriptor is the thread's: if a cancelled caller closed it, the thread would
        # write on into whatever file gets its number next.
        writing.add_done_callback(lambda _: os.close(descriptor))
        return await asyncio.wrap_future(writing)

    async def finish(self, digest: str) -> None:
        """The blob is whole. Raises NotFound, OSError."""
        spec = self._spec(digest)
        if self._leased is not None and self._leased.holds(digest):
            self._leased.release(digest)
        else:
            await asyncio.to_thread(self._publish, spec)
        self._lazy.discard(digest)

    def path(self, digest: str) -> Path:
        """Where buildkitd keeps the blob."""
        algorithm, _, name = digest.partition(":")
        return self._content / algorithm / name

    def sweep(self) -> Sequence[str]:
        """Forget blobs that were unlinked before their bytes came; their digests."""
        gone = self._leased.sweep() if self._leased is not None else []
        for digest in gone:
            del self._known[digest]
            self._lazy.discard(digest)
        return gone

    def state(self) -> Sequence[agent_pb2.BlobState]:
        """Every blob placed and not forgotten since."""
        lazy, local = agent_pb2.RESIDENCY_LAZY, agent_pb2.RESIDENCY_LOCAL
        return [
            agent_pb2.BlobState(
                digest=each.digest,
                size=each.size,
                residency=lazy if each.digest in self._lazy else local,
            )
            for each in self._known.values()
        ]

    def pending(self) -> int:
        """Leases broken and not yet served."""
        return self._leased.pending() if self._leased is not None else 0

    def _spec(self, digest: str) -> BlobSpec:
        spec = self._known.get(digest)
        if spec is None:
            raise NotFound(f"blob {digest} is not known, or was deleted")
        return spec

    def _part(self, digest: str) -> Path:
        return self._scratch / digest.replace(":", "-")

    def _make_directories(self, blobs: Sequence[BlobSpec]) -> None:
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in {self.path(each.digest).parent for each in blobs} | {self._content}:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)

    def _publish(self, spec: BlobSpec) -> None:
        part = self._part(spec.digest)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, spec.size)
            os.fchmod(descriptor, leases.MODE)
            os.utime(descriptor, ns=(spec.mtime_ns, spec.mtime_ns))
        finally:
            os.close(descriptor)
        part.rename(self.path(spec.digest))


def _write(descriptor: int, spec: BlobSpec, segment: agent_pb2.Segment) -> FillResult:
    offsets = [0, *itertools.accumulate(spec.chunk_lengths)]
    staged = [StagedChunk(each.chunk, each.offset, each.stored) for each in segment.chunks]
    corrupt: list[int] = []
    written = 0
    path = os.fsencode(segment.path)
    for number, data in read_chunks(path, staged, spec.chunk_digests, spec.chunk_lengths):
        if data is None:
            corrupt.append(number)
            continue
        at = offsets[number]
        view = memoryview(data)
        while view:
            count = os.pwrite(descriptor, view, at)
            view, at = view[count:], at + count
        written += len(data)
    return FillResult(0, written, corrupt)
