"""A place for a hostile tree to be written to, and beside it what it must not touch."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from buildsvc.cache import trees
from sidecar.agent.layout import Layout
from sidecar.agent.materialise import Materialiser
from sidecar.agent.staged import StagedChunk
from tests.campaign.forging import CONTENTS, STORED

_CANARY = b"nobody writes here\n"


class Jail:
    """``root`` is where trees go; ``outside`` is beside it, and the current directory."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.root = base / "root"
        self.outside = base / "outside"
        self.outside.mkdir(mode=0o777)
        (self.outside / "canary").write_bytes(_CANARY)
        (self.outside / "canary").chmod(0o666)
        self._segment = base / "segment"
        self._segment.write_bytes(b"".join(STORED))
        os.chdir(self.outside)
        self.root.mkdir()
        self._before = self._seen()
        self.root.rmdir()

    def materialise(self, data: bytes) -> None:
        """Do with a serialised tree what an unpacking worker does. Raises as that does."""
        layout = Layout(trees.parse(data))
        self.root.mkdir()
        target = os.fsencode(self.root)
        linked = Materialiser(layout, target).prepare()
        layout = Layout(trees.reread(data))
        materialiser = Materialiser(layout, target, linked)
        materialiser.fill(os.fsencode(self._segment), _staged(layout))
        materialiser.finish()

    def breach(self) -> str:
        """Say what has changed outside, nothing if it is as it was; empties the root."""
        after = self._seen()
        if self.root.exists():
            # Not shutil's, which recurses: a tree may be deeper than Python's stack.
            subprocess.run(["rm", "-rf", self.root], check=True)
        if after == self._before:
            return ""
        changed = sorted(set(after) ^ set(self._before), key=str)
        self._before = after
        return f"outside of the root: {changed}"

    def _seen(self) -> list[tuple[object, ...]]:
        seen: list[tuple[object, ...]] = []
        names = set(os.listdir(self._base)) - {self.root.name}
        seen.append(("names", *sorted(names)))
        for path in (self.outside, self.outside / "canary", self._segment):
            status = os.lstat(path)
            # The time of change covers names, content, mode, owner, links and attributes.
            seen.append((path.name, status.st_ino, status.st_size, status.st_ctime_ns))
        return seen


def _staged(layout: Layout) -> list[StagedChunk]:
    """Offer each chunk of the tree what an honest tree would have there."""
    staged, offset = [], 0
    for number, stored in enumerate(STORED):
        if number < len(layout.digests):
            staged.append(StagedChunk(number, offset, len(stored)))
        offset += len(stored)
    assert len(staged) <= len(CONTENTS)
    return staged
