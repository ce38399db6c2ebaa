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

from buildsvc.errors import CorruptObject
from sidecar.agent import messages
from sidecar.agent.channel import END, Channel
from sidecar.agent.layout import Layout, Layouts
from sidecar.agent.materialise import Materialiser
from sidecar.agent.spawn import PR_SET_PDEATHSIG, prctl
from sidecar.agent.twins import Twins

if TYPE_CHECKING:
    from collections.abc import Callable


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
                # Whoever prepared the target has checked the tree.
                layout = self._layouts.get(tree, checked=True)
                materialiser = Materialiser(layout, target, linked)
                filled = materialiser.fill(segment, chunks)
                return messages.Filled(filled.files, filled.bytes, filled.corrupt)
            case messages.Finish(tree, target, linked):
                layout = self._layouts.get(tree, checked=True)
                Materialiser(layout, target, linked).finish()
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
        return END
    # A terminal's Ctrl-C is for the agent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=int(descriptor)) as connection:
        channel = Channel(connection)
        if kind == "pack":
            # What unpacks has none of it to import: a daemon waits for its first file.
            from sidecar.agent.pack_tasks import PackTasks
            from sidecar.agent.priority import Session

            serve(channel, PackTasks(channel, Path(staging[0]), session=Session()).run)
        else:
            serve(channel, UnpackTasks().run)
    return END


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
