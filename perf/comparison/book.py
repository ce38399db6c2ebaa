"""The file in which a comparison is kept, and from which it goes on."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from perf import host
from perf.comparison.matrix import Cell
from perf.host import PerfError

Record = dict[str, Any]


class Book:
    """Everything measured so far, written whole after each record."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        """``content`` is what `opened` has read or made."""
        self.path = path
        self.content = content
        host.write_json(path, content)

    def done(self, cell: Cell) -> dict[str, list[int]]:
        """Return the rounds that each peer has records of."""
        found: dict[str, list[int]] = {}
        for record in self.content["cells"].get(cell.name, {}).get("records", ()):
            if record["kind"] == "again":
                found.setdefault(record["peer"], []).append(record["round"])
        return found

    def begin(self, cell: Cell, link: dict[str, float]) -> None:
        """Say what the network of a cell really does; once each time that it is gone on with."""
        entry = self.content["cells"].setdefault(cell.name, {**cell.about(), "records": []})
        entry["link"] = link

    def save(self, cell: Cell, record: Record) -> None:
        """Keep a record."""
        self.content["cells"][cell.name]["records"].append(record)
        host.write_json(self.path, self.content)


def opened(path: Path) -> Book:
    """Go on with a file, or begin it. Raises PerfError if it was begun with other code."""
    if not path.exists():
        content = {
            "unix": time.time(),
            "command": [sys.executable, *sys.orig_argv[1:]],
            "commit": host.revision(),
            "machine": host.machine(),
            "versions": host.versions(),
            "cells": {},
        }
        return Book(path, content)
    content = read(path)
    if content["commit"] != host.revision():
        raise PerfError(
            f"{path} was begun at {content['commit']}, this is {host.revision()}: go on there, or"
            " begin another file"
        )
    return Book(path, content)


def read(path: Path) -> dict[str, Any]:
    """Return what a file has in it. Raises PerfError when it is no comparison's."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PerfError(f"{path} is not a comparison's results: {error}") from error
    if "cells" not in content:
        raise PerfError(f"{path} is not a comparison's results: it has no cells")
    return content
