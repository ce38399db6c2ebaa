"""A book as one Markdown document."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable

from perf.comparison.names import BASE_CHANGE, BASE_NETWORK
from perf.reporting import costs, findings, tables
from perf.reporting.floor import floor_lines
from perf.reporting.results import Axis, Book, Cell, Failure, Sitting
from perf.reporting.verdicts import verdicts
from perf.reporting.wins import wins

#: What differs between the cells of an axis, and its heading.
_AXES: dict[Axis, tuple[str, str]] = {
    "change": ("Other changes", "change"),
    "network": ("Other networks", "network"),
    "medium": ("Other media", "medium"),
    "mounts": ("Without cache mounts", "cache mounts"),
    "compression": ("Caches as gzip and as zstd", "cell"),
    "size": ("Size of the cache", "cache"),
    "pods": ("Pods at once on one store", "cell"),
}


def markdown(book: Book) -> str:
    """Return everything that a book says, every round of it. Raises PerfError."""
    lines = [
        "# Comparison",
        "",
        *about(book),
        "",
        "## What it must show",
        "",
        f"{_BASE}: `{BASE_CHANGE}`, `{BASE_NETWORK}`.",
        *findings.verdict_table(verdicts(book)),
        "",
        *floor_lines(book),
        "## Where a peer is quicker",
        "",
        *findings.win_lines(wins(book)),
        "",
        *_base(book),
        *(line for axis in _AXES for line in _axis(book, axis)),
        "## First builds",
        "",
        _FIRST,
        *tables.first_table(list(book.base().items())),
        *costs.section(book),
        *_appendix(book),
    ]
    return "\n".join(lines).rstrip() + "\n"


_BASE = "A change of one line in a fresh pod, at 1 Gbit/s"
_MEMORY = "The machine gave free memory back to its host: fresh pods had to get it again."
_APART = "Peers in groups, one after the other: memory cannot hold what all of them have."
_FIRST = (
    "Nothing is cached. Who has a cache writes it: buildsvc beside and after the build, the tars of"
    " buildkit-local and buildkit-cache-dance after it, all else before the build's end."
)


_METHOD = (
    "Medians, with 95 % intervals of bootstrap percentiles (2000 resamples); of five rounds or"
    " fewer that is the smallest and the largest value, and of three it has the true median three"
    " times in four. No round is left out. Received and sent is what passed between builders and"
    " services: packages from outside are in neither, nor is their way shaped."
    " With a head start every peer's daemon would be up too, so what stands beside buildsvc-5s and"
    " buildsvc-20s is the build alone; beside buildsvc-0s it is the time from the start of the"
    " pod's first process. The warm daemon has no pod that would start: its build alone counts."
)


def about(book: Book) -> list[str]:
    """Say when, on what and how it was measured."""
    cells: dict[int, list[str]] = {}
    for name, cell in book.cells.items():
        cells.setdefault(cell.sitting, []).append(name)
    if len(cells) == 1:
        return [*_sitting(book.sittings[next(iter(cells))]), "", _METHOD]
    found = []
    for number, names in cells.items():
        first, *more = _sitting(book.sittings[number])
        found += [f"- {first}", *(f"  {line}" for line in [*more, f"Cells: {', '.join(names)}."])]
    return [*found, "", _METHOD]


def _sitting(sitting: Sitting) -> list[str]:
    when = time.strftime("%Y-%m-%d", time.gmtime(sitting.unix))
    machine = sitting.machine
    memory = machine.get("memory_bytes", 0) / 2**30
    commands = ", ".join(f"`{shlex.join(command)}`" for command in sitting.commands)
    # Some programs say theirs in several lines.
    said = {name: " ".join(version.split()) for name, version in sitting.versions.items()}
    versions = ", ".join(f"{name} ({version})" for name, version in sorted(said.items()))
    return [
        f"Measured on {when} at commit `{sitting.commit}`, by {commands}.",
        f"{machine.get('cpus', '?')} processors ({machine.get('cpu', 'unknown')}),",
        f"{memory:.0f} GiB of memory, kernel {machine.get('kernel', 'unknown')}.",
        *([_MEMORY] if machine.get("gives_memory_back") else []),
        f"Versions: {versions}.",
    ]


def _base(book: Book) -> Iterable[str]:
    for name, cell in book.cells.items():
        if cell.axis == "base":
            yield from (f"## {name}", "", _where(cell), *tables.peer_table([("", cell)]))
            yield from _bad_rounds([("", cell)])


def _bad_rounds(cells: Iterable[tuple[str, Cell]]) -> Iterable[str]:
    """What went wrong: rounds without the cache that there was, and builds that failed."""
    found = []
    for name, cell in cells:
        where = f"{name}: " if name else ""
        found += [
            f"- {where}{each.peer}, {each.kind} {each.round + 1}, found no cache:"
            f" {each.cold_reason}"
            for each in cell.records
            if each.cold_reason
        ]
        found += [
            f"- {where}{each.peer}, {each.kind} {each.round + 1}, failed:"
            f" {each.error.strip().splitlines()[-1]}{_repeated(each, cell)}"
            for each in cell.failures
        ]
    if found:
        yield from (*found, "")


def _repeated(failure: Failure, cell: Cell) -> str:
    done = {(record.peer, record.kind, record.round) for record in cell.records}
    return " (repeated)" if (failure.peer, failure.kind, failure.round) in done else ""


def _where(cell: Cell) -> str:
    text = f"Change `{cell.change}`, network `{cell.network}`, files on {cell.medium}."
    if cell.apart:
        text += f" {_APART}"
    if cell.link is None:
        return text
    return f"{text} The link as measured: {_link(cell)}."


def _link(cell: Cell) -> str:
    link = cell.link
    if link is None:
        return "not measured"
    up = "" if link.mbit_up is None else f", {link.mbit_up:.0f} from builders"
    return f"{link.mbit:.0f} Mbit/s{up}, {link.round_trip_ms:.1f} ms"


def _axis(book: Book, axis: Axis) -> Iterable[str]:
    cells = [(name, cell) for name, cell in book.cells.items() if cell.axis == axis]
    if not cells:
        return
    title, column = _AXES[axis]
    base = book.base()
    if axis == "size":
        # Each has a scenario of its own: the same build beside another cache.
        rows = [(_label(name, cell, axis), cell) for name, cell in cells]
        yield from (f"## {title}", *_apart(rows), "", _links(rows))
        yield from tables.peer_table(rows, column)
        yield from _bad_rounds(rows)
        return
    # The cell of the base that they differ from stands before them.
    for scenario in dict.fromkeys(cell.scenario for _, cell in cells):
        own = [(name, cell) for name, cell in cells if cell.scenario == scenario]
        rows = [(_label(name, cell, axis), cell) for name, cell in own]
        beside = []
        if scenario in base and axis in {"change", "network", "medium", "mounts"}:
            beside = [(_label("base", base[scenario], axis), base[scenario])]
        both = [*beside, *rows]
        yield from (f"## {title}: {scenario}", "", _links(both), *tables.peer_table(both, column))
        yield from _bad_rounds(rows)


def _links(cells: Iterable[tuple[str, Cell]]) -> str:
    found = "; ".join(f"{name}: {_link(cell)}" for name, cell in cells)
    return f"The link as measured: {found}."


def _apart(cells: Iterable[tuple[str, Cell]]) -> Iterable[str]:
    names = [name for name, cell in cells if cell.apart]
    return ("", f"{', '.join(names)}: {_APART[0].lower()}{_APART[1:]}") if names else ()


def _label(name: str, cell: Cell, axis: Axis) -> str:
    """What tells a cell from the other ones of its axis."""
    if axis == "network":
        return cell.network
    if axis == "size":
        size = f"{cell.at_rest() / 1e9:.3g} GB"
        return f"{size} (simulated)" if cell.simulated else size
    if axis == "mounts":
        return "with" if cell.mounts else "without"
    return {"change": cell.change, "medium": cell.medium}.get(axis, name)


def _appendix(book: Book) -> Iterable[str]:
    yield from ("## Every round", "", "<details><summary>All that was built</summary>", "")
    for name, cell in book.cells.items():
        yield from tables.round_table(name, cell)
    yield from ("</details>", "", "<details><summary>The commands</summary>", "")
    shown = set()
    for cell in book.cells.values():
        for record in cell.records:
            if (record.peer, record.kind) not in shown:
                shown.add((record.peer, record.kind))
                yield from (f"{record.peer}, {record.kind}:", "", "```")
                yield from (shlex.join(command) for command in record.commands)
                yield from ("```", "")
    yield "</details>"
