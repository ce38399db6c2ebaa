"""JSON messages with descriptors over AF_UNIX SOCK_SEQPACKET. Standard library only, and little.

Not `socket.send_fds` and `recv_fds`: those ignore their flags in Python 3.11, close-on-exec among
them, and a lease that a child inherits cannot be given back.
"""

from __future__ import annotations

import array
import json
import os
import socket

LIMIT = 256 * 1024
"""Bytes of a message; a kernel with default settings sends up to about 200 KiB."""
BATCH = 200
"""Descriptors in one message; the kernel's limit is 253."""

Message = dict[str, object]


class PacketError(Exception):
    """What arrived is not a whole message."""


def send(sock: socket.socket, message: Message, descriptors: list[int], flags: int = 0) -> None:
    """Sends one message. Raises OSError: EPIPE when nobody is there, EAGAIN when it must wait."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    sock.sendmsg([json.dumps(message).encode()], rights if descriptors else [], flags)


def receive(sock: socket.socket, flags: int = 0) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, close-on-exec and the caller's to close.

    None when the other side has closed. Raises BlockingIOError, and PacketError for a message that
    is no JSON object or whose descriptors did not all fit below our limit.
    """
    space = socket.CMSG_LEN(BATCH * array.array("i").itemsize)
    try:
        data, ancillary, received, _ = sock.recvmsg(LIMIT, space, flags | socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        return None
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if not data:
        return None
    try:
        message = json.loads(data)
    except ValueError:
        message = None
    if received & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or not isinstance(message, dict):
        for descriptor in descriptors:
            os.close(descriptor)
        raise PacketError("not a whole message")
    return message, list(descriptors)
