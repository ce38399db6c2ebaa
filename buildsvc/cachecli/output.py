"""What the commands print: lines on one stream, and how far they are on the other."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence


def print_line(line: str) -> None:
    """Print a line of the answer."""
    sys.stdout.write(line + "\n")


def print_json(document: object) -> None:
    """Print the answer as JSON."""
    print_line(json.dumps(document, indent=2))


def print_table(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> None:
    """Print rows of the same length in columns; those of ``right``, such as sizes, to the right."""
    lines = [list(row) for row in rows]
    to_the_right = set(right)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.rjust(width) if number in to_the_right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print_line(("  " + "  ".join(cells)).rstrip())


def shown(text: str, most: int = 200) -> str:
    """Text of the store for people: without what would control their terminal, and not too long."""
    safe = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in text[: most + 1]
    )
    return safe if len(safe) <= most else f"{safe[: most - 1]}…"


def shown_time(unix: float | None) -> str:
    """A time for people, in UTC."""
    if unix is None:
        return "unknown"
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix))


class Progress:
    """One line on a terminal, which the next one replaces."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, what: str, done: int, total: int) -> None:
        """Say how far it is."""
        if sys.stderr.isatty():
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{what}: {done} of {total}")
            sys.stderr.flush()

    def end(self) -> None:
        """Remove the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
