"""What was measured, as Markdown tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter

from perf import stats
from perf.comparison.names import (
    COLD,
    HEAD_START,
    KEPT,
    NO_START,
    OURS,
    SCENARIOS,
    beside,
    in_order,
    ordered,
)
from perf.reporting.results import (
    Book,
    Cell,
    Measure,
    Record,
    comparable,
    compared,
    figures,
    measure_of,
    titled,
    waits,
)

NOTHING = "-"

_MB = 1e6
_COLUMNS = (
    *("peer", "rounds", "from the pod's start, s", "the build alone, s", "steps cached", "CPU s"),
    *("peak memory, MB", "received, MB", "sent, MB", f"÷ {NO_START}", f"÷ {HEAD_START}"),
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, and an empty one before and after."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return ["", lines[0], "|---" * len(head) + "|", *lines[1:], ""]


def peer_table(cells: Sequence[tuple[str, Cell]], column: str = "") -> list[str]:
    """A row for each peer of each cell; ``column`` heads what the cells are called, if anything."""
    rows = [
        [*([label] if column else []), *_peer(cell, peer)]
        for label, cell in cells
        for peer in cell.peers()
    ]
    return table((*([column] if column else []), *_COLUMNS), rows)


def _peer(cell: Cell, peer: str) -> list[str]:
    records = cell.again(peer)
    return [
        f"**{peer}**" if peer.startswith(OURS) else peer,
        str(len(records)),
        _seconds(records, "seconds"),
        estimate(figures(records, lambda record: record.build_seconds)),
        _cached(records),
        _middle(records, lambda record: record.cpu_seconds, digits=1),
        *_bytes(records, "memory_bytes", "received_bytes", "sent_bytes"),
        *(_ratio(cell, peer, ours) for ours in (NO_START, HEAD_START)),
    ]


def _seconds(records: Iterable[Record], measure: Measure) -> str:
    return estimate(figures(records, attrgetter(measure)))


def estimate(values: Sequence[float]) -> str:
    """Return a median with its interval, which a single value has not."""
    if not values:
        return NOTHING
    return stats.median(values).text() if len(values) > 1 else f"{values[0]:.2f}"


def _middle(
    records: Iterable[Record], figure: Callable[[Record], float | None], digits: int = 2
) -> str:
    values = figures(records, figure)
    return f"{statistics.median(values):.{digits}f}" if values else NOTHING


def _bytes(records: Sequence[Record], *names: str) -> list[str]:
    return [_megabytes(figures(records, attrgetter(name))) for name in names]


def _megabytes(values: Sequence[float]) -> str:
    if not values:
        return NOTHING
    size = statistics.median(values) / _MB
    return f"{size:.0f}" if size >= 100 else f"{size:.1f}"


def _cached(records: Iterable[Record]) -> str:
    told = [each for each in records if each.cached is not None and each.steps is not None]
    if not told:
        return NOTHING
    return f"{_middle(told, lambda r: r.cached, 0)} of {_middle(told, lambda r: r.steps, 0)}"


def _ratio(cell: Cell, peer: str, ours: str) -> str:
    measure = measure_of(ours)
    own = beside(peer, ours)
    sides = compared(waits(cell.again(peer), measure), waits(cell.again(own), measure))
    if sides is None or (peer.startswith(OURS) and peer != own):
        return NOTHING
    text = f"{sides.ratio():.2f}"
    return f"**{text}**" if sides.ratio() < 1 else text


def first_table(cells: Sequence[tuple[str, Cell]]) -> list[str]:
    """What the first build costs, which finds no cache and writes one."""
    rows = []
    for label, cell in cells:
        cold = waits(cell.first(COLD), "seconds")
        found = in_order(each.peer for each in cell.records if cell.first(each.peer))
        for peer in found:
            records = cell.first(peer)
            ended = waits(records, "seconds")
            sides = compared(ended, cold)
            rows.append(
                [
                    *(label, f"**{peer}**" if peer.startswith(OURS) else peer, str(len(records))),
                    _seconds(records, "seconds"),
                    f"{sides.ratio():.3f}" if sides else NOTHING,
                    estimate(figures(records, _published)),
                    _middle(records, lambda record: record.cpu_seconds, digits=1),
                    *_bytes(records, "sent_bytes", "stored_bytes"),
                ]
            )
    return table(
        (
            *("scenario", "peer", "builds", "until the step ends, s", "÷ buildkit-cold"),
            *("until the cache is published, s", "CPU s", "sent, MB", "the cache at rest, MB"),
        ),
        rows,
    )


def _published(record: Record) -> float | None:
    """Seconds until others can use the cache; None where none is written."""
    if record.seconds is None or record.peer in {COLD, *KEPT}:
        return None
    return record.seconds + (record.published_seconds or 0)


def waited_table(book: Book, measure: Measure) -> list[str]:
    """Medians of all scenarios side by side."""
    cells = book.base()
    found = {scenario: comparable(cell, measure) for scenario, cell in cells.items()}
    scenarios = ordered([*SCENARIOS, *cells], SCENARIOS)
    rows = []
    for peer in in_order(peer for values in found.values() for peer in values):
        values = [estimate(found.get(scenario, {}).get(peer, [])) for scenario in scenarios]
        name = titled(peer, measure)
        rows.append([f"**{name}**" if peer.startswith(OURS) else name, *values])
    return table(("seconds, median (95 % interval)", *scenarios), rows)


def round_table(name: str, cell: Cell) -> list[str]:
    """Every build of a cell, as it was measured."""
    rows = [
        (
            *(each.peer, each.kind, str(each.round)),
            time.strftime("%m-%d %H:%M:%S", time.gmtime(each.began_unix)),
            f"{each.load_before[0]:.1f}",
            *(_number(value) for value in (each.seconds, each.build_seconds)),
            *(_number(value, 0) for value in (each.cached, each.steps)),
            _number(each.cpu_seconds),
            *_bytes([each], "memory_bytes", "received_bytes", "sent_bytes", "stored_bytes"),
            _number(each.published_seconds),
        )
        for each in cell.records
    ]
    head = (
        *("peer", "kind", "round", "began, UTC", "load", "from the start, s", "build, s", "cached"),
        *("steps", "CPU s", "memory, MB", "received, MB", "sent, MB", "stored, MB", "published, s"),
    )
    return [f"### {name}", *table(head, rows)]


def _number(value: float | None, digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
