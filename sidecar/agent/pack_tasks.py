"""What the packing worker does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc.cache import chunking, trees
from buildsvc.cache.chunks import split_digests
from buildsvc.cache.packs import FinishedPack, PackWriter
from sidecar.agent import messages
from sidecar.agent.channel import END, Channel
from sidecar.agent.errors import NotCapturable
from sidecar.agent.pack import Packer
from sidecar.agent.priority import IdleThread, Session
from sidecar.agent.sink import ChunkSink

if TYPE_CHECKING:
    from collections.abc import Callable


class PackTasks:
    """Does one request after another. Its priority is that of the thread that does it."""

    def __init__(
        self,
        channel: Channel,
        staging: Path,
        limits: trees.Limits = trees.LIMITS,
        session: Session | None = None,
    ) -> None:
        """`session`: the worker's own, which gives way while a request is idle."""
        self._channel = channel
        self._session = session
        self._sink = ChunkSink(PackWriter(staging), set(), self._finished)
        self._packer = Packer(self._sink, limits)
        self._idle = IdleThread()

    def run(self, request: messages.Request) -> messages.Reply | None:
        """Do one task. Raises ChangedWhileReading, NotCapturable, StagingUnusable, OSError."""
        match request:
            case messages.Know(digests):
                self._sink.know(split_digests(digests))
                return None
            case messages.Forget(digests):
                self._packer.forget(split_digests(digests))
                return None
            case messages.Flush():
                self._sink.flush()
                return messages.Done()
            case messages.CaptureTree(idle=idle):
                return self._at(idle, lambda: self._tree(request))
            case messages.CaptureBlob(_, _, idle):
                return self._at(idle, lambda: self._blob(request))
            case _:
                raise TypeError(f"the packing worker cannot do {request!r}")

    def _at(self, idle: bool, work: Callable[[], messages.Reply]) -> messages.Reply:  # noqa: FBT001
        if self._session is not None:
            self._session.be(idle=idle)
        return self._idle.run(work) if idle else work()

    def _tree(self, request: messages.CaptureTree) -> messages.Reply:
        path = Path(os.fsdecode(request.path))
        grain = chunking.FINE if request.fine else chunking.COARSE
        left_out = ""
        try:
            if request.bare:
                captured = self._packer.capture_bare(path)
            else:
                captured = self._packer.capture_tree(path, remember=request.remember, grain=grain)
        except NotCapturable as error:
            left_out = str(error)
            captured = self._packer.capture_bare(path)
        return messages.TreeCaptured(
            captured.tree_digests,
            captured.data_digests,
            captured.usage_bytes,
            captured.usage_inodes,
            left_out,
        )

    def _blob(self, request: messages.CaptureBlob) -> messages.Reply:
        captured = self._packer.capture_blob(request.digest, Path(os.fsdecode(request.path)))
        return messages.BlobCaptured(captured.size, captured.mtime_ns, captured.data_digests)

    def _finished(self, pack: FinishedPack) -> None:
        """Report a pack and wait until there may be another."""
        self._channel.send(
            messages.Packed(
                os.fsencode(pack.path),
                pack.digest,
                pack.size,
                pack.chunk_digests,
                pack.chunk_offsets,
                pack.chunk_stored,
                pack.chunk_lengths,
            )
        )
        if not isinstance(self._channel.receive(), messages.Proceed):
            os._exit(END)
