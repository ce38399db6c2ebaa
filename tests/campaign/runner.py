"""Goes through points, part by part, and keeps what each has found."""

from __future__ import annotations

import io
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, redirect_stderr
from pathlib import Path

from tests.campaign.book import Book, verdict
from tests.campaign.points import Found, Part, Point, Scene

Place = Callable[[int], AbstractContextManager[Path]]
"""Makes an empty directory with room for so many bytes, and removes it."""


#: Characters of logs that are kept.
_LOGS = 20_000


class Runner:
    """Tries what is not in the book yet."""

    def __init__(self, book: Book, place: Place, say: Callable[[str], None]) -> None:
        """``say`` is told of every part, and of what goes on in it."""
        self._book = book
        self._place = place
        self._say = say

    def run(self, points: Sequence[tuple[Point, int]]) -> int:
        """Try points with so many steps each; the exit code (`verdict`)."""
        for point, steps in points:
            self._book.begin(point.number, steps)
        for point, steps in points:
            parts = point.parts(steps)
            for number, part in enumerate(parts, 1):
                name = f"point {point.number} {point.name}, {part.name} ({number} of {len(parts)})"
                if self._book.done(point.number, part.name):
                    self._say(f"{name}: in the book")
                else:
                    self._try(point, part, name)
        numbers = [point.number for point, _ in points]
        return verdict(entry for number in numbers for entry in self._book.parts(number).values())

    def _try(self, point: Point, part: Part, name: str) -> None:
        self._say(f"{name}: begins")
        began = time.monotonic()
        # Pods leave their logs there: they are kept when something went wrong.
        logs = io.StringIO()
        try:
            with self._place(point.room) as directory, redirect_stderr(logs):
                seed = f"{self._book.seed}/{point.number}/{part.name}"
                found = part.work(Scene(directory, seed, lambda text: self._say(f"{name}: {text}")))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other parts are tried
            told = f"{logs.getvalue()[-_LOGS:]}\n{''.join(traceback.format_exception(error))}"
            if not _contradicts(error):
                self._book.save_error(point.number, part.name, time.monotonic() - began, told)
                self._say(f"{name}: COULD NOT BE TRIED: {error!r}")
                return
            found = Found({}, [told.strip()])
        seconds = time.monotonic() - began
        self._book.save(point.number, part.name, seconds, found)
        outcome = f"{len(found.misses)} MISSED" if found.misses else "met"
        self._say(f"{name}: {outcome} in {seconds:.0f} s")


def _contradicts(error: Exception) -> bool:
    """Whether it says that the claim does not hold, and not that it could not be tried."""
    if isinstance(error, ExceptionGroup):
        # Of tasks that were tried side by side.
        return all(_contradicts(each) for each in error.exceptions)
    return isinstance(error, (AssertionError, TimeoutError))
