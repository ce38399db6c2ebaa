"""What all our commands have in common: usage errors as ours, and errors as people read them."""

from __future__ import annotations

import argparse
from typing import NoReturn

from buildsvc.errors import BuildsvcError, UsageError


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """See ``argparse.ArgumentParser.error``."""
        raise UsageError(message, advice=f"{self.prog} --help")


def error_lines(error: BuildsvcError) -> str:
    """The error with what was expected, found and advised on lines of their own."""
    text = str(error)
    for part in ("expected", "found", "what to do"):
        text = text.replace(f"; {part}: ", f"\n  {part}: ")
    return text
