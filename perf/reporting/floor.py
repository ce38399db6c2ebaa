"""What the link alone takes for the bytes of a pod without a head start, and the build after it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from perf.comparison.names import NO_START, WARM
from perf.reporting.results import Book, Cell, waits
from perf.reporting.tables import NOTHING, table

_MB = 1e6
_TEXT = (
    "A changed step needs the layers below it, and a pod without a head start has none. What it"
    " received, at the link's rate, and then the warm daemon's build: roughly what a pod would need"
    " that starts in no time and unpacks while it receives, and whose processors, which serve the"
    " link's other end too, keep up. Fewer bytes, or steps that run while layers of others arrive,"
    " would be quicker:"
)


@dataclass(frozen=True)
class Floor:
    """Medians of one scenario: of a pod without a head start, and of the warm daemon's build.

    Seconds, and the bytes that the pod received.
    """

    scenario: str
    received_bytes: float
    #: For these bytes alone, at the rate that the link was measured to have.
    link_seconds: float
    warm_seconds: float
    measured_seconds: float
    #: Processor seconds of the whole pod, and how many processors the machine has.
    processor_seconds: float
    processors: int

    @property
    def seconds(self) -> float:
        """Of a pod that starts in no time, whose every byte but the last is free."""
        return self.link_seconds + self.warm_seconds


def floors(book: Book) -> list[Floor]:
    """Return those of the base, where pod, warm daemon and link were measured."""
    return [found for cell in book.base().values() for found in _floor(book, cell)]


def _floor(book: Book, cell: Cell) -> Iterator[Floor]:
    records = cell.again(NO_START)
    measured = waits(records, "seconds")
    warm = waits(cell.again(WARM), "seconds")
    if cell.link is None or not measured or not warm:
        return
    received = statistics.median(each.received_bytes for each in records)
    yield Floor(
        scenario=cell.scenario,
        received_bytes=received,
        link_seconds=received * 8 / (cell.link.mbit * 1e6),
        warm_seconds=statistics.median(warm.values()),
        measured_seconds=statistics.median(measured.values()),
        processor_seconds=statistics.median(each.cpu_seconds for each in records),
        processors=int(book.sittings[cell.sitting].machine["cpus"]),
    )


def floor_lines(book: Book) -> list[str]:
    """A table of them; nothing where there are none."""
    found = floors(book)
    if not found:
        return []
    rows = [
        (
            each.scenario,
            f"{each.received_bytes / _MB:.0f}",
            f"{each.link_seconds:.2f}",
            f"{each.warm_seconds:.2f}",
            f"{each.seconds:.2f}",
            f"{each.measured_seconds:.2f}",
            f"{each.processor_seconds:.2f} ÷ {each.processors}",
            f"{each.seconds / each.warm_seconds:.2f}",
            f"{each.measured_seconds / each.warm_seconds:.2f}",
        )
        for each in found
    ]
    means = (
        statistics.geometric_mean(each.seconds / each.warm_seconds for each in found),
        statistics.geometric_mean(each.measured_seconds / each.warm_seconds for each in found),
    )
    mean = ("geometric mean", *[NOTHING] * 6, *(f"{value:.2f}" for value in means))
    head = (
        *("scenario", "received, MB", "that over the link, s", "the warm daemon's build, s"),
        *("both, s", f"{NO_START}, s", "its processor seconds until published ÷ processors"),
        *("both ÷ warm", f"{NO_START} ÷ warm"),
    )
    return [_TEXT, *table(head, [*rows, mean])]
