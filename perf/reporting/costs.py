"""What a month of builds costs on Alibaba Cloud OSS: a model over what was measured.

    python -m perf.reporting.costs FILE [--set NAME=VALUE]…

FILE is a book of `python -m perf run`; NAME is one of `ASSUMPTIONS`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from perf.comparison.names import HEAD_START, NO_START, OURS
from perf.host import PerfError
from perf.reporting.results import Book, Cell, Record, figures, read
from perf.reporting.tables import table

PEERS = (NO_START, HEAD_START, "buildkit-registry-zstd", "buildkit-s3-zstd")

#: Operations of the store that are requests of the PUT kind; deleting costs nothing.
_PUTS = ("put", "put_file", "create", "list")
_GB = 1e9
_MONTH_DAYS = 30


@dataclass(frozen=True)
class Assumption:
    """A number of the model: its unit, and where it comes from."""

    value: float
    unit: str
    source: str


_EXAMPLES = (
    "Alibaba Cloud, Object Storage Service, “Billing examples” (计费案例), China (Hangzhou), prices"
    " of 2024-11-20"
)
_TRAFFIC = "Alibaba Cloud, Object Storage Service, “Traffic fees”: not charged"

ASSUMPTIONS: Mapping[str, Assumption] = {
    "storage": Assumption(0.15, "CNY a GB and month, Standard, zone-redundant", _EXAMPLES),
    "get": Assumption(0.01, "CNY for 10 000 requests of the GET kind", _EXAMPLES),
    "put": Assumption(
        0.01,
        "CNY for 10 000 requests of the PUT kind",
        "Alibaba Cloud, Object Storage Service, “深度冷归档存储使用最佳实践” (best practices"
        " of Deep Cold Archive), which names Standard's beside it, China (Hangzhou), 2024-04-08",
    ),
    "upload": Assumption(0.0, "CNY a GB sent to OSS, over any network", _TRAFFIC),
    "internal": Assumption(0.0, "CNY a GB received over the region's internal network", _TRAFFIC),
    "internet": Assumption(
        0.50, "CNY a GB received over the Internet", f"{_EXAMPLES}; from 8:00 to 24:00"
    ),
    "builds": Assumption(
        3000, "rebuilds of a project in a month", "assumed: 30 developers, 5 a day, 20 days"
    ),
    "caches": Assumption(
        10, "caches of a project that are kept", "assumed: branches, which have nothing in common"
    ),
    "kept_days": Assumption(
        7,
        "days until what a rebuild added is collected",
        "assumed: `buildsvc cache gc` once a week",
    ),
    "object_mb": Assumption(
        16, "MB for each request", "assumed: packs and layers have some tens of MB"
    ),
    "requests": Assumption(
        10, "further requests of a kind for each build", "assumed: heads, roots, indexes; manifests"
    ),
}


@dataclass(frozen=True)
class Month:
    """A month of one project's rebuilds: amounts, and what they cost in CNY."""

    stored_gb: float
    puts: float
    gets: float
    sent_gb: float
    received_gb: float
    storage: float
    requests: float
    #: All of it, with builders in the bucket's region, and with builders elsewhere.
    inside: float
    outside: float


def chosen(settings: Sequence[str]) -> dict[str, float]:
    """Return the assumptions, some set to others by ``NAME=VALUE``. Raises PerfError."""
    values = {name: assumption.value for name, assumption in ASSUMPTIONS.items()}
    for setting in settings:
        name, _, text = setting.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if name not in values or not 0 <= value < float("inf"):
            raise PerfError(
                f"{setting}: expected NAME=VALUE, a number from 0 for one of {', '.join(values)}"
            )
        values[name] = value
    if not values["object_mb"]:
        raise PerfError("object_mb: a request moves more than nothing")
    return values


def month(cell: Cell, peer: str, values: Mapping[str, float]) -> Month | None:
    """Return what a month costs; None where the peer's first build or rebuilds are missing."""
    rebuilds = cell.again(peer)
    first = cell.first(OURS if peer.startswith(OURS) else peer)
    stored = figures(first, lambda record: record.stored_bytes)
    if not rebuilds or not stored:
        return None
    builds = values["builds"]
    sent = statistics.median(record.sent_bytes for record in rebuilds)
    received = statistics.median(record.received_bytes for record in rebuilds)
    added = sent * builds * values["kept_days"] / _MONTH_DAYS
    stored_gb = (statistics.median(stored) * values["caches"] + added) / _GB
    puts = builds * statistics.median(_puts(record, values) for record in rebuilds)
    gets = builds * statistics.median(_gets(record, values) for record in rebuilds)
    sent_gb, received_gb = sent * builds / _GB, received * builds / _GB
    storage = stored_gb * values["storage"]
    requests = (puts * values["put"] + gets * values["get"]) / 10_000
    always = storage + requests + sent_gb * values["upload"]
    return Month(
        stored_gb, puts, gets, sent_gb, received_gb, storage, requests,
        always + received_gb * values["internal"], always + received_gb * values["internet"],
    )  # fmt: skip


def _requests(size: float, values: Mapping[str, float]) -> float:
    return values["requests"] + size / (values["object_mb"] * 1e6)


def _puts(record: Record, values: Mapping[str, float]) -> float:
    if record.requests is None:
        return _requests(record.sent_bytes, values)
    return sum(count for name, count in record.requests.items() if name in _PUTS)


def _gets(record: Record, values: Mapping[str, float]) -> float:
    if record.requests is None:
        return _requests(record.received_bytes, values)
    free = (*_PUTS, "delete")
    return sum(count for name, count in record.requests.items() if name not in free)


def section(book: Book, settings: Sequence[str] = ()) -> list[str]:
    """Return the model as Markdown: the months, the assumptions, what it leaves out."""
    values = chosen(settings)
    cells = [(scenario, cell, peer) for scenario, cell in book.base().items() for peer in PEERS]
    months = [(scenario, peer, month(cell, peer, values)) for scenario, cell, peer in cells]
    rows = [
        (
            *(scenario, peer, f"{found.stored_gb:.1f}", f"{found.puts:.0f}", f"{found.gets:.0f}"),
            *(f"{found.sent_gb:.0f}", f"{found.received_gb:.0f}", f"{found.storage:.2f}"),
            *(f"{found.requests:.2f}", f"{found.inside:.2f}", f"{found.outside:.2f}"),
        )
        for scenario, peer, found in months
        if found
    ]
    missing = [f"{scenario} of {peer}" for scenario, peer, found in months if not found]
    head = (
        *("scenario", "peer", "stored, GB", "PUTs", "GETs", "sent, GB", "received, GB"),
        *("storage, CNY", "requests, CNY", "a month in the region, CNY", "over the Internet, CNY"),
    )
    title = "## What a month costs on OSS"
    said = f"Not measured, or not what it stores: {', '.join(missing)}."
    lines = [title, "", _MODEL, *table(head, rows), *([said, ""] if missing else [])]
    return [*lines, *_assumptions(values)]


_MODEL = (
    "A model, not a bill: bytes of a rebuild and of the first build's cache are measured,"
    " buildsvc's requests to its store counted where the results have them; all else is assumed"
    " below. Every byte over the link counts as the bucket's, those of the image among them. A"
    " GB has 10⁹ bytes. A registry's or S3 cache is read by each of these builds and written by"
    " none, which favours those; buildsvc publishes after each. What a pod receives in a head start"
    " grows with the builds that are kept; the median of the rounds stands for each. Free quotas,"
    " discounts and the registry's own price are left out."
)


_LEAD = (
    "Prices are the list prices of the pages named, and like all else they can be set:"
    " `python -m perf.reporting.costs FILE --set NAME=VALUE`."
)


def _assumptions(values: Mapping[str, float]) -> list[str]:
    rows = [
        (f"`{name}`", f"{values[name]:g}", assumption.unit, _source(name, values[name]))
        for name, assumption in ASSUMPTIONS.items()
    ]
    head = ("assumption", "value", "unit", "from")
    return [_LEAD, *table(head, rows)]


def _source(name: str, value: float) -> str:
    assumption = ASSUMPTIONS[name]
    return assumption.source if value == assumption.value else "set by an option"


def main(argv: Sequence[str]) -> int:
    """The program; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="perf.reporting.costs", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(argv)
    try:
        print("\n".join(section(read(options.file), options.set)))
    except PerfError as error:
        print(f"perf.reporting.costs: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
