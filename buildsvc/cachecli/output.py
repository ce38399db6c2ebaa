"""What the commands print: lines on one stream, and how far they are on the other."""

from __future__ import annotations

import sys


def print_line(line: str) -> None:
    """Print a line of the answer."""
    sys.stdout.write(line + "\n")


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
