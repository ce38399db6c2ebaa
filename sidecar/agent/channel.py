"""A worker process's end of the socket to its agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.agent import messages

if TYPE_CHECKING:
    import socket

#: Exit code of a worker whose agent wants no more of it.
END = 0


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
