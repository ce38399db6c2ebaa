"""A worker process: `python -m sidecar.agent.worker unpack|pack FD PARENT [STAGING]`.

Reads requests from the socket FD and answers each, one after another. Ends when the agent, whose
pid is PARENT, is gone. Any error but the expected ones ends it with a traceback; the agent starts
another and gives it the same task.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from buildsvc.cache import chunking
from buildsvc.cache.chunks import split_digests
from buildsvc.cache.packs import FinishedPack, PackWriter
from buildsvc.errors import CorruptObject
from sidecar.agent import messages
from sidecar.agent.layout import Layout, Layouts
from sidecar.agent.materialise import Materialiser
from sidecar.agent.pack import Packer
from sidecar.agent.priority import IdleThread
from sidecar.agent.sink import ChunkSink
from sidecar.agent.spawn import PR_SET_PDEATHSIG, prctl
from sidecar.agent.twins import Twins

if TYPE_CHECKING:
    from collections.abc import Callable

_END = 0


class Channel:
    """The worker's end of the socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def receive(self) -> messages.Request | None:
        """Wait for a request; None when the agent has closed the socket."""
        header = self._file.read(messages.HEADER.size)
        if len(header) < messages.HEADER.size:
            return None
        (length,) = messages.HEADER.unpack(header)
        body = self._file.read(length)
        return messages.decode_request(body) if len(body) == length else None

    def send(self, reply: messages.Reply) -> None:
        """Answer."""
        self._connection.sendall(messages.encode(reply))


class UnpackTasks:
    """What an unpacking worker does."""

    def __init__(self) -> None:
        self._layouts = Layouts()

    def run(self, request: messages.Request) -> messages.Reply | None:
        """Do one task. Raises CorruptObject, OSError."""
        match request:
            case messages.Prepare():
                layout = self._layouts.get(request.tree)
                linked = self._prepare(layout, request)
                return messages.Prepared(layout.wanted(linked), linked)
            case messages.Fill(tree, target, linked, segment, chunks):
                materialiser = Materialiser(self._layouts.get(tree), target, linked)
                filled = materialiser.fill(segment, chunks)
                return messages.Filled(filled.files, filled.bytes, filled.corrupt)
            case messages.Finish(tree, target, linked):
                Materialiser(self._layouts.get(tree), target, linked).finish()
                return messages.Done()
            case _:
                raise TypeError(f"an unpacking worker cannot do {request!r}")

    def _prepare(self, layout: Layout, request: messages.Prepare) -> bytes:
        """Prepare the target, with links if the sibling can be had; what was linked."""
        materialiser = Materialiser(layout, request.target)
        twins = self._twins(layout, request) if request.sibling_tree else None
        if twins is None:
            return materialiser.prepare()
        with twins:
            return materialiser.prepare(twins)

    def _twins(self, layout: Layout, request: messages.Prepare) -> Twins | None:
        try:
            sibling = self._layouts.beside(request.tree, request.sibling_tree)
            return None if sibling is None else Twins(layout, sibling, request.sibling)
        except (CorruptObject, OSError):
            # Linking only saves work. The sibling may have been removed, its tree kept by nobody.
            return None


class PackTasks:
    """What the packing worker does. Its priority is that of the thread that does it."""

    def __init__(self, channel: Channel, staging: Path) -> None:
        self._channel = channel
        self._sink = ChunkSink(PackWriter(staging), set(), self._finished)
        self._packer = Packer(self._sink)
        self._idle = IdleThread()

    def run(self, request: messages.Request) -> messages.Reply | None:
        """Do one task. Raises ChangedWhileReading, NotCapturable, StagingUnusable, OSError."""
        match request:
            case messages.Know(digests):
                self._sink.know(split_digests(digests))
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
        return self._idle.run(work) if idle else work()

    def _tree(self, request: messages.CaptureTree) -> messages.Reply:
        path = Path(os.fsdecode(request.path))
        grain = chunking.FINE if request.fine else chunking.COARSE
        captured = self._packer.capture_tree(path, remember=request.remember, grain=grain)
        return messages.TreeCaptured(
            captured.tree_digests,
            captured.data_digests,
            captured.usage_bytes,
            captured.usage_inodes,
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
            os._exit(_END)


def serve(channel: Channel, run: Callable[[messages.Request], messages.Reply | None]) -> None:
    """Answer requests until the agent closes the socket."""
    while (request := channel.receive()) is not None:
        reply: messages.Reply | None
        try:
            reply = run(request)
        except (*messages.EXPECTED, OSError) as error:
            reply = messages.failed(error)
        if reply is not None:
            channel.send(reply)


def main(arguments: list[str]) -> int:
    """Be a worker; the exit code."""
    kind, descriptor, parent, *staging = arguments
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return _END
    # A terminal's Ctrl-C is for the agent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(descriptor)) as connection:
        channel = Channel(connection)
        if kind == "pack":
            serve(channel, PackTasks(channel, Path(staging[0])).run)
        else:
            serve(channel, UnpackTasks().run)
    return _END


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
