"""The file in which a comparison is kept, and from which it goes on.

Its *sittings* say when, where and on which code something was measured; each cell is of one. So
cells may be measured on different days, and all rounds of a cell belong together.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from perf import host
from perf.comparison.matrix import Cell
from perf.comparison.versions import peers_versions
from perf.host import PerfError

Record = dict[str, Any]

_ABSOLUTE = re.compile(r"(?:^|(?<==))/(?:[^/]*/)*")
"""Of a path's name in a word of a command line, all but the last part."""


class Book:
    """Everything measured so far, written whole after each record."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        """``content`` is what `opened` has read or made."""
        self.path = path
        self.content = content
        self._sitting = _sitting(content["sittings"])
        host.write_json(path, content)

    def done(self, cell: Cell) -> dict[str, list[int]]:
        """Return the rounds that each peer has records of."""
        found: dict[str, list[int]] = {}
        for record in self.content["cells"].get(cell.name, {}).get("records", ()):
            if record["kind"] == "again":
                found.setdefault(record["peer"], []).append(record["round"])
        return found

    def begin(self, cell: Cell, link: dict[str, float]) -> None:
        """Say what the network of a cell really does; once each time that it is gone on with.

        Raises PerfError for a cell that has rounds of another sitting.
        """
        entry = self.content["cells"].setdefault(cell.name, {**cell.about(), "records": []})
        if entry["records"] and entry["sitting"] != self._sitting:
            theirs = self.content["sittings"][entry["sitting"]]["commit"]
            ours = self.content["sittings"][self._sitting]["commit"]
            raise PerfError(
                f"its rounds in {self.path} are of commit {theirs} or another machine, this is"
                f" {ours}: measure it anew (--anew), or go on there"
            )
        entry |= {"sitting": self._sitting, "link": link}

    def forget(self, cell: Cell) -> None:
        """Drop what there is of a cell, to measure it anew."""
        self.content["cells"].pop(cell.name, None)

    def save(self, cell: Cell, record: Record) -> None:
        """Keep a record, or what there is instead of one: ``error``."""
        entry = self.content["cells"][cell.name]
        entry.setdefault("failures" if "error" in record else "records", []).append(record)
        host.write_json(self.path, self.content)


def _sitting(known: list[Record]) -> int:
    """Return the number of the sitting that goes on here and now; a new one is added."""
    this = {
        "unix": time.time(),
        # Not where on this machine the files lie.
        "commands": [[_ABSOLUTE.sub("", word) for word in (sys.executable, *sys.orig_argv[1:])]],
        "commit": host.revision(),
        "machine": host.machine(),
        "versions": host.versions() | peers_versions(),
    }
    told = json.loads(json.dumps(this))
    for number, one in enumerate(known):
        if all(one[what] == told[what] for what in ("commit", "machine", "versions")):
            one["commands"] += [each for each in told["commands"] if each not in one["commands"]]
            return number
    known.append(told)
    return len(known) - 1


def opened(path: Path) -> Book:
    """Go on with a file, or begin it. Raises PerfError if something else is in it."""
    return Book(path, read(path) if path.exists() else {"sittings": [], "cells": {}})


def read(path: Path) -> dict[str, Any]:
    """Return what a file has in it. Raises PerfError when it is no comparison's."""
    try:
        content: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PerfError(f"{path} is not a comparison's results: {error}") from error
    if not isinstance(content, dict) or not {"sittings", "cells"} <= content.keys():
        raise PerfError(f"{path} is not a comparison's results: it has no sittings and cells")
    return dict(content)
