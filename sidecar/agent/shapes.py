"""How a snapshot is mounted by its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sidecar.agent.index import Kind
from sidecar.agent.mounts import OVERLAY_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.agent.directories import Directories

_PAGE = 4096


class Mount(NamedTuple):
    """One call of mount(2) for the client to make."""

    type: str
    source: str
    options: list[str]


class Shapes:
    """The mounts that BuildKit's differ and containerd's mount code can read.

    BuildKit finds a layer's directory in an overlay's options, and only when it knows all of them
    (`util/overlay`); else it compares two whole trees to make an image's layer.
    """

    def __init__(self, directories: Directories) -> None:
        self._directories = directories

    async def mounts(
        self, number: int, kind: Kind, chain: Sequence[int], work: str = ""
    ) -> list[Mount]:
        """For a snapshot of this id on a chain of others, the topmost first. Raises OSError.

        ``work`` is the work directory of a client that mounts an active one's overlay itself.
        """
        layer = self._directories.layer
        if kind is Kind.ACTIVE:
            if not chain:
                return [Mount("bind", layer(number), ["rw", "rbind"])]
            if work:
                return [self._overlay(chain, self._directories.upper(number, work))]
            await self._directories.pin(number, chain, writable=True)
            return [Mount("bind", self._directories.merged(number), ["rw", "rbind"])]
        if len(chain) <= 1:
            return [Mount("bind", layer(chain[0] if chain else number), ["ro", "rbind"])]
        if not fits(chain):
            await self._directories.pin(number, chain, writable=False)
            return [Mount("bind", self._directories.merged(number), ["ro", "rbind"])]
        return [self._overlay(chain, [])]

    def _overlay(self, chain: Sequence[int], upper: list[str]) -> Mount:
        lower = "lowerdir=" + ":".join(self._directories.layer(number) for number in chain)
        return Mount("overlay", "overlay", [*upper, lower, *OVERLAY_OPTIONS])


def fits(chain: Sequence[int]) -> bool:
    """Whether containerd's mount code, which makes names relative, can mount these layers.

    mount(2) takes one page of options, terminator included.
    """
    names = ":".join(f"{number}/fs" for number in chain)
    return len(",".join([f"lowerdir={names}", *OVERLAY_OPTIONS])) < _PAGE
