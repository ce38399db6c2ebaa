"""Seams of the agent: what its gRPC services need of the parts that move bytes, hold leases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from buildsvc._proto.buildsvc.agent.v1 import agent_pb2

DEMAND = 0
"""Priority of what buildkitd waits for."""
TRACE = 1
"""Priority of what the last build used."""
REST = 2
"""Priority of everything else."""
Priority: TypeAlias = "Callable[[], int]"
"""One of these, which may change while something waits for its turn."""


@dataclass(frozen=True)
class FillResult:
    """What one segment gave: files and bytes written, and the chunks with another digest."""

    files: int
    bytes: int
    corrupt: Sequence[int]


@dataclass(frozen=True)
class Sibling:
    """A whole, immutable layer whose files may be linked, and the file with its tree."""

    tree: Path
    layer: Path


@dataclass(frozen=True)
class Prepared:
    """What a target needs after `prepare`: rows of its tree's chunk table.

    `linked` has a byte for each entry, 1 if it is a link of a sibling's file that must not be
    touched any more; empty if there is none.
    """

    wanted: Sequence[int]
    linked: bytes = b""


class Unpacker(Protocol):
    """Turns a staged tree and its chunks into a directory, in worker processes.

    `tree` is the path of a serialised `Tree`, `target` the directory to become it. Calls for one
    target are: `prepare`, then any number of `fill` (also several at a time), then `finish`, the
    latter two with the answer of the first. Each may be repeated after a failure. All raise
    `CorruptObject` for a tree that is not valid. `priority` is asked for as long as a call waits.
    """

    async def prepare(
        self, tree: Path, target: Path, *, sibling: Sibling | None = None, priority: Priority
    ) -> Prepared:
        """Makes the directories, and links of the sibling's files."""

    async def fill(
        self,
        tree: Path,
        target: Path,
        segment: agent_pb2.Segment,
        *,
        linked: bytes = b"",
        priority: Priority,
    ) -> FillResult:
        """Verifies each chunk and writes every piece that needs it. Leaves the segment's file."""

    async def finish(
        self, tree: Path, target: Path, *, linked: bytes = b"", priority: Priority
    ) -> None:
        """Links, devices, whiteouts, and the metadata of directories, deepest first."""


class Packer(Protocol):
    """Reads trees and blobs into packs, in a worker process.

    Every capture yields a `pack` event for each pack that was finished meanwhile, and as its last
    event the captured object or a `skipped` one. It may wait until `release` has made room.
    """

    async def know(self, root: Path) -> None:
        """Takes the chunks of a serialised `Root` as stored already."""

    async def forget(self, digests: bytes) -> None:
        """Takes chunks (digests, concatenated) as not stored. Raises CorruptObject."""

    def capture_snapshot(
        self, name: str, path: Path, *, idle: bool, again: bool, bare: bool = False
    ) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        """Packs the directory `path`. `again`: it may have changed since it was last read. `bare`:
        as if nothing were in it.
        """

    def capture_blob(
        self, digest: str, path: Path, *, idle: bool
    ) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        """Packs one content blob."""

    def capture_directory(
        self, path: Path, *, idle: bool
    ) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        """Packs a directory of databases; its last event is `databases`."""

    def flush(self) -> AsyncGenerator[agent_pb2.CaptureEvent, None]:
        """Closes the open pack, if any, and yields it."""

    async def release(self, path: Path) -> None:
        """Deletes a pack file that has been uploaded."""


@dataclass(frozen=True)
class BlobSpec:
    """A blob as the cache knows it: bytes, mtime in ns, digests and lengths of its chunks."""

    digest: str
    size: int
    mtime_ns: int
    chunk_digests: Sequence[bytes]
    chunk_lengths: Sequence[int]


class Blobs(Protocol):
    """buildkitd's content blobs, which can be there before their bytes are."""

    async def place(self, blobs: Sequence[BlobSpec], *, leased: bool) -> tuple[int, str]:
        """Makes blobs known. Answers how many are leased, and why not all of them, if so.

        A leased one is an empty file of its final size at once, others appear when finished.
        """

    def chunks(self, digest: str) -> int:
        """How many chunks the blob has. Raises KeyError for one not known."""

    async def fill(self, digest: str, segment: agent_pb2.Segment) -> FillResult:
        """Verifies and writes the chunks of a segment. Leaves the segment's file."""

    async def finish(self, digest: str) -> None:
        """The blob is whole: lets go of its lease, or moves it to its place."""

    def path(self, digest: str) -> Path:
        """Where buildkitd keeps the blob."""

    def sweep(self) -> Sequence[str]:
        """Forgets blobs that were unlinked before their bytes came; answers their digests."""

    def state(self) -> Sequence[agent_pb2.BlobState]:
        """Every blob placed and not forgotten since."""

    def pending(self) -> int:
        """Leases broken and not yet served."""


class Guard(Protocol):
    """The process that must outlive the agent."""

    async def gone(self) -> None:
        """Returns when the guard has died; buildkitd is dead by then."""
