"""The file in which a campaign is kept, and from which it goes on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perf import host
from tests.campaign.points import CampaignError, Found

Entry = Mapping[str, Any]
"""A part: ``seconds``, and ``figures`` and ``misses`` or, if it could not be tried, ``error``."""


class Book:
    """Everything found so far, written whole after each part."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        """``content`` is what `new_book` or `open_book` has made."""
        self.path = path
        self.content = content
        self.write()

    @property
    def seed(self) -> str:
        """What everything random follows from."""
        seed: str = self.content["seed"]
        return seed

    def begin(self, point: int, steps: int) -> None:
        """Say how many steps of a point are taken. Raises CampaignError for another number."""
        entry = self.content["points"].setdefault(str(point), {"steps": steps, "parts": {}})
        if entry["steps"] != steps:
            raise CampaignError(
                f"{self.path}: point {point} was begun with {entry['steps']} steps, not {steps}:"
                " go on with those, or begin another file"
            )

    def parts(self, point: int) -> dict[str, Entry]:
        """Return the parts of a point that were tried, by name."""
        parts: dict[str, Entry] = self.content["points"][str(point)]["parts"]
        return parts

    def done(self, point: int, part: str) -> bool:
        """Whether a part was tried; one that failed was not."""
        found = self.parts(point).get(part)
        return found is not None and "error" not in found

    def save(self, point: int, part: str, seconds: float, found: Found) -> None:
        """Keep what a part has found."""
        entry = {"figures": dict(found.figures), "misses": list(found.misses)}
        self._save(point, part, seconds, entry)

    def save_error(self, point: int, part: str, seconds: float, error: str) -> None:
        """Keep why a part could not be tried."""
        self._save(point, part, seconds, {"error": error})

    def _save(self, point: int, part: str, seconds: float, entry: dict[str, Any]) -> None:
        self.parts(point)[part] = {"seconds": seconds, **entry}
        self.write()

    def write(self) -> None:
        """Replace the file."""
        host.write_json(self.path, self.content)


def new_book(path: Path, seed: str) -> Book:
    """Begin a campaign."""
    content = {
        "unix": time.time(),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "revision": host.revision(),
        "machine": host.machine(),
        "seed": seed,
        "points": {},
    }
    return Book(path, content)


def open_book(path: Path) -> Book:
    """Go on with a campaign. Raises CampaignError if it was begun with other code."""
    content = json.loads(path.read_text())
    if content["revision"] != (now := host.revision()):
        raise CampaignError(
            f"{path} was begun at {content['revision']}, this is {now}: begin another file"
        )
    return Book(path, content)


def verdict(entries: Iterable[Entry]) -> int:
    """Return the exit code: 1 after a miss, else 2 if something could not be tried, else 0."""
    entries = list(entries)
    if any(entry.get("misses") for entry in entries):
        return 1
    return 2 if any("error" in entry for entry in entries) else 0
