"""What restoring has found to be lost in the store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from buildsvc.cache.roots import Location


@dataclass
class Losses:
    """They only grow; the length is how many there are."""

    packs: set[bytes] = field(default_factory=set)
    """Digests of packs that are missing, cut short, or archived."""
    chunks: set[tuple[bytes, bytes]] = field(default_factory=set)
    """Digests of corrupt chunks, each with that of the pack that it is corrupt in."""
    told: Callable[[], None] = lambda: None
    """Called when restoring has come upon one that was not known."""

    def __len__(self) -> int:
        return len(self.packs) + len(self.chunks)

    def exceed(self, known: int) -> bool:
        """Whether there are more than were known."""
        return len(self) > known

    def corrupt(self, at: Location) -> None:
        """Add a chunk that is not what its name says."""
        if (at.digest, at.pack) not in self.chunks:
            self.chunks.add((at.digest, at.pack))
            self.told()

    def missing(self, pack: bytes) -> None:
        """Add a pack that is not there, not whole, or archived."""
        if pack not in self.packs:
            self.packs.add(pack)
            self.told()

    @property
    def suspects(self) -> frozenset[bytes]:
        """Packs that nothing new is to rely on: lost, or with a corrupt chunk in them."""
        return frozenset(self.packs) | {pack for _, pack in self.chunks}

    def readable(self, at: Location) -> bool:
        """Whether the chunk may be there: its pack is, and nobody has found it corrupt in it."""
        return at.pack not in self.packs and (at.digest, at.pack) not in self.chunks
