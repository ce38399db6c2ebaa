"""What the agent and its workers say to each other: msgpack, each with its length before."""

from __future__ import annotations

import struct

import msgspec

from buildsvc.errors import BuildsvcError, CorruptObject
from sidecar.agent.errors import ChangedWhileReading, NotCapturable, StagingUnusable
from sidecar.agent.staged import StagedChunk

HEADER = struct.Struct("<I")
"""Bytes of the message that follows."""


class Prepare(msgspec.Struct, tag=True, frozen=True):
    """Paths of a serialised tree and of the directory to become it.

    The same of a sibling whose files may be linked, or empty.
    """

    tree: bytes
    target: bytes
    sibling_tree: bytes = b""
    sibling: bytes = b""


class Fill(msgspec.Struct, tag=True, frozen=True):
    """Tree and target, what `Prepared` said to be linked, a segment and where its chunks are."""

    tree: bytes
    target: bytes
    linked: bytes
    segment: bytes
    chunks: list[StagedChunk]


class Finish(msgspec.Struct, tag=True, frozen=True):
    """Tree and target, and what `Prepared` said to be linked."""

    tree: bytes
    target: bytes
    linked: bytes


class Know(msgspec.Struct, tag=True, frozen=True):
    """Digests, concatenated, of chunks that are stored already. Has no answer."""

    digests: bytes


class Forget(msgspec.Struct, tag=True, frozen=True):
    """Digests, concatenated, of chunks that are not stored after all. Has no answer."""

    digests: bytes


class CaptureTree(msgspec.Struct, tag=True, frozen=True):
    """A directory; `remember`: the name under which it may be captured again.

    `fine`: what is in it changes in small places, as databases do. `bare`: nothing that is in it.
    """

    path: bytes
    remember: str | None
    idle: bool
    fine: bool = False
    bare: bool = False


class CaptureBlob(msgspec.Struct, tag=True, frozen=True):
    """A blob's digest, "sha256:…", and its file."""

    digest: str
    path: bytes
    idle: bool


class Flush(msgspec.Struct, tag=True, frozen=True):
    """Close the open pack."""


class Proceed(msgspec.Struct, tag=True, frozen=True):
    """Answer to Packed: there is room for one more pack."""


Request = Prepare | Fill | Finish | Know | Forget | CaptureTree | CaptureBlob | Flush | Proceed


class Prepared(msgspec.Struct, tag=True, frozen=True):
    """Rows of the tree's chunk table that are needed; for each entry 1 if it was linked, or b""."""

    wanted: list[int]
    linked: bytes


class Filled(msgspec.Struct, tag=True, frozen=True):
    """Files completed, bytes written, indices of chunks whose bytes were wrong."""

    files: int
    bytes: int
    corrupt: list[int]


class Done(msgspec.Struct, tag=True, frozen=True):
    """There is nothing to say about it."""


class Packed(msgspec.Struct, tag=True, frozen=True):
    """A finished pack; the columns of PackFile in agent.proto. Waits for Proceed."""

    path: bytes
    digest: bytes
    size: int
    chunk_digests: bytes
    chunk_offsets: list[int]
    chunk_stored: list[int]
    chunk_lengths: list[int]


class TreeCaptured(msgspec.Struct, tag=True, frozen=True):
    """As CapturedTree in agent.proto."""

    tree_digests: bytes
    data_digests: bytes
    usage_bytes: int
    usage_inodes: int
    left_out: str = ""


class BlobCaptured(msgspec.Struct, tag=True, frozen=True):
    """As CapturedBlob in agent.proto."""

    size: int
    mtime_ns: int
    data_digests: bytes


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The task raised an error of this kind; `errno` for OSError, else 0."""

    kind: str
    text: str
    errno: int

    @property
    def loses_pack(self) -> bool:
        """Whether the packing process is of no more use, and its open pack lost."""
        return self.kind == StagingUnusable.__name__

    def error(self) -> Exception:
        """Return the error to raise in the agent."""
        if self.kind in _KINDS:
            return _KINDS[self.kind](self.text)
        return OSError(self.errno, self.text)


Reply = Prepared | Filled | Done | Packed | TreeCaptured | BlobCaptured | Failed

EXPECTED = (CorruptObject, ChangedWhileReading, NotCapturable, StagingUnusable)
"""Errors, beside OSError, that a worker reports and survives."""

_KINDS: dict[str, type[BuildsvcError]] = {kind.__name__: kind for kind in EXPECTED}

_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def failed(error: Exception) -> Failed:
    """Describe an error to the agent."""
    if isinstance(error, OSError):
        where = f": {error.filename!r}" if error.filename is not None else ""
        return Failed("OSError", f"{error.strerror}{where}", error.errno or 0)
    return Failed(type(error).__name__, str(error), 0)


def encode(message: Request | Reply) -> bytes:
    """Return a message with its length before."""
    body = msgspec.msgpack.encode(message)
    return HEADER.pack(len(body)) + body


def decode_request(body: bytes) -> Request:
    """Return what a worker is asked. Raises msgspec.DecodeError."""
    return _requests.decode(body)


def decode_reply(body: bytes) -> Reply:
    """Return what a worker answers. Raises msgspec.DecodeError."""
    return _replies.decode(body)
