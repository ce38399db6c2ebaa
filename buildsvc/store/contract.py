"""The contract of an object store.

An object is a name (see ``names``) and bytes. Objects are small in number of kinds: heads, which
are created once and never change, and content-addressed packs and roots, which may be put any
number of times because their bytes follow from their names. So the contract needs no versions, no
locks and no compare-and-swap; ``create`` is the one operation that decides between two writers.

An example, the life of a generation::

    await store.put_file("packs/ab/ab12…", path)        # any number of times, by anybody
    await store.put("roots/cd34…", data)
    try:
        await store.create("keys/k/heads/00000000000000000007", head)   # published
    except ObjectExists:
        ...                                             # read it: ours after a lost answer?

Every implementation and every wrapper passes ``buildsvc.store.testing.StoreSuite``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MAX_GET = 256 << 20
"""Largest object, in bytes, that ``get`` returns unless told otherwise; beyond it, read ranges."""


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """What a store tells about an object without its bytes."""

    name: str
    size: int
    """Bytes."""
    modified: float | None
    """When it was written, seconds since the epoch by the store's clock; None if not known."""


class Store(Protocol):
    """An object store. All methods are safe to call concurrently from one event loop.

    Any method may raise, besides what it names itself:

    * ``InvalidName``: the name or prefix is not valid; nothing was done;
    * ``StoreUnavailable``: a passing failure. A write may or may not have taken effect;
    * ``StoreRefused``: permission, full disk or misconfiguration; retrying does not help;
    * ``UnreadableObject``, from what reads: this object lies in an archive, others may be read.

    What goes wrong with the caller's own file (``path``, ``fd``) is raised as ``OSError``.
    A cancelled write may still take effect, whole. No reader ever sees a part of an object.
    """

    async def get(self, name: str, *, limit: int = MAX_GET) -> bytes:
        """Return the whole object, of at most ``limit`` bytes.

        Of a larger one no more than about that many are read: anybody may have put it there.

        Raises:
            ObjectNotFound: no such object.
            UnreadableObject: it is larger.
        """
        ...

    async def get_range(self, name: str, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from offset ``start``.

        Raises:
            ObjectNotFound: no such object.
            ShortObject: the object ends before ``start + length``.
        """
        ...

    async def get_range_to(self, name: str, start: int, length: int, fd: int, at: int = 0) -> int:
        """Copy exactly ``length`` bytes from offset ``start`` to offset ``at`` of the open ``fd``.

        Memory stays bounded whatever the length; the file offset of ``fd`` is not used. After
        an error or a cancellation the target range holds anything. Returns ``length``.

        Raises:
            ObjectNotFound: no such object.
            ShortObject: the object ends before ``start + length``.
            OSError: writing to ``fd`` failed.
        """
        ...

    async def put(self, name: str, data: bytes) -> None:
        """Store ``data`` durably under ``name``, replacing atomically what was there."""
        ...

    async def put_file(self, name: str, path: Path) -> None:
        """``put`` of a file's bytes, with bounded memory. The file must not change meanwhile.

        Raises:
            OSError: the file cannot be read.
        """
        ...

    async def create(self, name: str, data: bytes) -> None:
        """Store ``data`` durably under ``name`` if nothing is there; atomic among all writers.

        Raises:
            ObjectExists: something is there; it is untouched. It can be the caller's own object
                when an earlier answer was lost on the way: read it and compare.
        """
        ...

    async def stat(self, name: str) -> ObjectStat:
        """Return size and time of the object.

        Raises:
            ObjectNotFound: no such object.
        """
        ...

    def list(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """Yield the objects whose names begin with ``prefix``, in ascending order of names.

        A hint: objects written or deleted while it runs, or just before, may be missing or
        there. ``prefix`` is compared as a string; it need not end at a ``/``.
        """
        ...

    async def delete(self, name: str) -> None:
        """Remove the object; no error if there is none."""
        ...

    async def close(self) -> None:
        """Give back connections and threads. The store is not usable afterwards."""
        ...
