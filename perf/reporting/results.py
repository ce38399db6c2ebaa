"""The book of a comparison, read with types, and the figures that follow from it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from perf.comparison.names import (
    BASE_CHANGE,
    BASE_NETWORK,
    COLD,
    FIRST,
    NO_START,
    OURS,
    PEERS,
    SCENARIOS,
    WARM,
    crowd,
    in_order,
    ordered,
)
from perf.host import PerfError
from perf.stats import Sides

Axis = Literal["base", "change", "network", "medium", "mounts", "compression", "size", "pods"]
Measure = Literal["seconds", "build_seconds"]
"""From the start of the pod's first process; or the build alone, as after a head start."""

Waits = dict[tuple[int, int, int], float]
"""Seconds, by the turn, the round's number, and how many of that number came before."""

_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One build. ``settle`` is one between the first and the rounds, which counts for nothing."""

    peer: str
    kind: Literal["first", "settle", "again"]
    round: _Count
    began_unix: float
    load_before: tuple[float, float, float]
    seconds: _Positive | None
    build_seconds: _Positive
    steps: _Count | None = None
    cached: _Count | None = None
    cpu_seconds: float
    memory_bytes: _Count
    received_bytes: _Count
    sent_bytes: _Count
    commands: tuple[tuple[str, ...], ...]
    spans: tuple[tuple[str, float, float], ...] = ()
    published_seconds: float | None = None
    stored_bytes: _Count | None = None
    #: Of pods at once: ``seconds`` of every one, where the record is that of the slowest.
    each: tuple[_Positive | None, ...] = ()
    #: The same number in records of peers that took turns, and only in those.
    turn: int = 0
    #: Why a pod that should have found a cache has found none.
    cold_reason: str = ""
    #: Of the restored generation: all of them, and how many were fetched and why.
    objects: Mapping[str, _Count] | None = None
    #: Sent to the store, by the operation's name, until the generation was published.
    requests: Mapping[str, _Count] | None = None

    def waited(self, measure: Measure) -> float | None:
        """Return the seconds that somebody waited; None where that was not measured.

        There is no pod of the warm daemon that would start: it is always the build.
        """
        if measure == "build_seconds" or (self.seconds is None and crowd(self.peer)[0] == WARM):
            return self.build_seconds
        return self.seconds


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A build that was to be measured and failed, or could not be measured."""

    peer: str
    kind: Literal["first", "settle", "again"]
    round: _Count
    began_unix: float
    error: str


class Link(msgspec.Struct, frozen=True):
    """What the network really did."""

    round_trip_ms: float
    #: To builders, and from them.
    mbit: float
    mbit_up: float | None = None


class Sitting(msgspec.Struct, frozen=True, kw_only=True):
    """When, where, how and on which code something was measured."""

    unix: float
    commands: tuple[tuple[str, ...], ...]
    commit: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Peers that took turns. ``cache_bytes`` and ``simulated`` are of the axis size.

    ``sitting`` is the number of the one that all its rounds are of.
    """

    sitting: _Count
    axis: Axis
    scenario: str
    change: str
    network: str
    medium: str
    mounts: bool = True
    apart: bool = False
    link: Link | None = None
    cache_bytes: int | None = None
    simulated: bool = False
    records: tuple[Record, ...]
    failures: tuple[Failure, ...] = ()

    def at_rest(self) -> int:
        """Return the bytes of the cache: as was asked for, else the most that anybody stored."""
        stored = (record.stored_bytes or 0 for record in self.records)
        return max(stored, default=0) if self.cache_bytes is None else self.cache_bytes

    def again(self, peer: str) -> list[Record]:
        """Return the rounds of a peer, in order."""
        found = [each for each in self.records if each.peer == peer and each.kind == "again"]
        return sorted(found, key=lambda record: record.round)

    def first(self, peer: str) -> list[Record]:
        """Return the builds of a peer that found no cache; ``OURS`` is any of buildsvc's."""
        if peer == OURS:
            ours = (self.first(name) for name in PEERS if name.startswith(OURS))
            return next((found for found in ours if found), [])
        # Those two have nothing but first builds.
        kinds = {"first", "again"} if peer in {FIRST, COLD} else {"first"}
        return [each for each in self.records if each.peer == peer and each.kind in kinds]

    def peers(self) -> list[str]:
        """Return those that there are rebuilds of, in the order in which they are shown."""
        found = in_order(each.peer for each in self.records if each.kind == "again")
        return [peer for peer in found if peer != FIRST]


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    sittings: tuple[Sitting, ...]
    cells: Mapping[str, Cell]

    def base(self) -> dict[str, Cell]:
        """Return by scenario the cells of a one-line change at 1 Gbit/s. Raises PerfError."""
        found: dict[str, Cell] = {}
        for name, cell in self.cells.items():
            if cell.axis == "base" and (cell.change, cell.network) == (BASE_CHANGE, BASE_NETWORK):
                if cell.scenario in found:
                    raise PerfError(f"{name}: there is another base cell of {cell.scenario}")
                found[cell.scenario] = cell
        return {scenario: found[scenario] for scenario in ordered(found, SCENARIOS)}

    def digest(self) -> str:
        """Return what tells this book from others."""
        content = msgspec.json.encode(self, order="sorted")
        return hashlib.sha256(content).hexdigest()[:16]


def read(path: Path) -> Book:
    """Return the book in a file. Raises PerfError when there is none in it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PerfError(f"{path} cannot be read: {error.strerror}") from error
    return decode(content, str(path))


def decode(content: bytes, source: str) -> Book:
    """Return the book in ``content``. Raises PerfError, which names the source."""
    try:
        book = msgspec.json.decode(content, type=Book)
    except msgspec.DecodeError as error:
        raise PerfError(
            f"{source} is no book of a comparison, as `python -m perf run` writes it: {error}"
        ) from error
    for name, cell in book.cells.items():
        if cell.sitting >= len(book.sittings):
            raise PerfError(f"{source}: {name} is of sitting {cell.sitting}, which is not there")
        rounds = Counter((each.peer, each.round) for each in cell.records if each.kind == "again")
        for (peer, number), count in rounds.items():
            if count > 1:
                raise PerfError(f"{source}: {name} has round {number} of {peer} {count} times")
    return book


def measure_of(ours: str) -> Measure:
    """Return by what a peer of buildsvc's and other ones are compared.

    With a head start every peer's daemon would be up too, so it is the build alone.
    """
    return "seconds" if crowd(ours)[0] == NO_START else "build_seconds"


def comparable(cell: Cell, measure: Measure) -> dict[str, list[float]]:
    """Return what was waited by peer, of those that are compared by this measure."""
    found = {}
    for peer in cell.peers():
        if not peer.startswith(OURS) or measure_of(peer) == measure:
            found[peer] = list(waits(cell.again(peer), measure).values())
    return {peer: values for peer, values in found.items() if values}


def titled(peer: str, measure: Measure) -> str:
    """Return a peer's name, which says where the measure is another one."""
    return f"{peer} (build alone)" if measure == "seconds" and peer == WARM else peer


def waits(records: Iterable[Record], measure: Measure) -> Waits:
    """Return what was waited in the rounds that have it."""
    found: Waits = {}
    for record in records:
        if (value := record.waited(measure)) is not None:
            # A first build may have been repeated.
            nth = sum(key[:2] == (record.turn, record.round) for key in found)
            found[record.turn, record.round, nth] = value
    return found


def figures(records: Iterable[Record], figure: Callable[[Record], float | None]) -> list[float]:
    """Return one figure of every record that has it."""
    return [value for value in map(figure, records) if value is not None]


def compared(over: Waits, under: Waits) -> Sides | None:
    """Return two sides for a ratio, paired by round; None when one of them is empty.

    Where one side lacks a round of the other, or was measured in another turn, no value is left
    out, and they are not paired.
    """
    if not over or not under:
        return None
    paired = over.keys() == under.keys()
    return Sides([over[n] for n in sorted(over)], [under[n] for n in sorted(under)], paired)
