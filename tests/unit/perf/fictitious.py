"""A book of a comparison that never took place, for tests of what is made of one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from perf.comparison.names import PEERS, SCENARIOS, crowd
from perf.reporting.results import Book, decode

Content = dict[str, Any]

#: Seconds of a build alone, and of the pod's start before it; None where there is no such pod.
_SECONDS: Mapping[str, tuple[float, float | None]] = {
    "buildsvc-first": (30.0, 1.0),
    "buildsvc-0s": (2.6, 1.0),
    "buildsvc-5s": (2.2, None),
    "buildsvc-20s": (2.1, None),
    "warm": (2.0, None),
    "buildkit-cold": (30.0, 0.5),
    "buildkit-registry-zstd": (9.0, 0.5),
    "buildkit-registry-gzip": (12.0, 0.5),
    "buildkit-registry-plain": (10.0, 0.5),
    "buildkit-inline": (20.0, 0.5),
    "buildkit-local": (11.0, 0.5),
    "buildkit-s3-zstd": (9.5, 0.5),
    "buildkit-s3-gzip": (12.5, 0.5),
    "kaniko": (25.0, 0.2),
    "dind-cold": (31.0, 1.5),
    "dind-cache-from": (22.0, 1.5),
    "dind-kept": (2.4, 1.5),
    "buildkit-cache-dance": (11.0, 0.2),
    "buildah": (26.0, 0.2),
}
_FACTORS = dict(zip(SCENARIOS, (1.0, 0.8, 1.4, 1.9, 3.0, 0.6), strict=True))


def record(peer: str, kind: str, number: int, factor: float = 1.0, **changed: Any) -> Content:
    """One build; the same every time, for it is chance with a seed."""
    chance = random.Random(f"{peer} {kind} {number} {factor}")
    alone, start = _SECONDS[crowd(peer)[0]] if kind == "again" else (30.0, 0.5)
    build = round(alone * factor * chance.uniform(0.95, 1.15), 3)
    begins = start or 0.0
    found: Content = {
        "peer": peer,
        "kind": kind,
        "round": number,
        "began_unix": 86_400.0 * 365 + 60 * number,
        "load_before": [0.5, 0.4, 0.3],
        "seconds": None if start is None else round(begins + build, 3),
        "build_seconds": build,
        "steps": 12,
        "cached": 11 if kind == "again" else 0,
        "cpu_seconds": round(build * 1.5, 2),
        "memory_bytes": 400_000_000,
        "received_bytes": int(build * 30e6),
        "sent_bytes": 2_000_000,
        "commands": [["no-such-builder", f"--as={peer}", "two words"]],
        "spans": [
            ["daemon", 0.0, begins],
            ["importing cache manifest from a registry", begins, begins + build * 0.2],
            ["[1/4] FROM base", begins + build * 0.2, begins + build * 0.3],
            ["[2/4] RUN make", begins + build * 0.3, begins + build * 0.8],
            ["[3/4] COPY src /", begins + build * 0.5, begins + build * 0.7],
            ["exporting to image", begins + build * 0.82, begins + build],
        ],
    }
    if kind == "first" or peer == "buildsvc-first":
        found |= {"published_seconds": 0.7, "stored_bytes": int(500_000_000 * factor)}
    return found | changed


def cell(peers: Iterable[str] = PEERS, rounds: int = 5, **changed: Any) -> Content:
    """Rounds of these peers, and their first builds."""
    about: dict[str, Any] = {
        "sitting": 0,
        "axis": "base",
        "scenario": "python",
        "change": "line",
        "network": "1gbit-1ms",
        "medium": "tmpfs",
        "link": {"round_trip_ms": 1.1, "mbit": 970.0},
    } | changed
    factor = _FACTORS.get(about["scenario"], 1.0)
    records = [
        record(peer, "first", 0, factor)
        for peer in peers
        if peer not in {"buildsvc-first", "buildkit-cold", "warm", "kaniko", "dind-cold"}
    ]
    records += [record(peer, "again", number, factor) for number in range(rounds) for peer in peers]
    return about | {"records": records}


def content(cells: Mapping[str, Content] | None = None, **changed: Any) -> Content:
    """What is in the file: base cells of all scenarios unless others are given."""
    if cells is None:
        cells = {name: cell(scenario=name) for name in SCENARIOS}
    return {"sittings": [sitting()], "cells": dict(cells)} | changed


def sitting(**changed: Any) -> Content:
    """When, where and on which code."""
    return {
        "unix": 86_400.0 * 365,
        "commands": [["python", "-m", "perf", "run"]],
        "commit": "fictitious",
        "machine": {"cpus": 2, "cpu": "No Such Processor", "memory_bytes": 1 << 34, "kernel": "0"},
        "versions": {"buildkitd": "v0", "kaniko": "v0"},
    } | changed


def book(cells: Mapping[str, Content] | None = None, **changed: Any) -> Book:
    """The same, read."""
    return decode(msgspec.json.encode(content(cells, **changed)), "fictitious")


def with_records(found: Content, peer: str, **changed: Any) -> Content:
    """A cell in which all rebuilds of a peer are changed alike."""
    records = [
        each | changed if (each["peer"], each["kind"]) == (peer, "again") else each
        for each in found["records"]
    ]
    return found | {"records": records}


def without(found: Content, *peers: str) -> Content:
    """A cell without some peers."""
    return found | {"records": [each for each in found["records"] if each["peer"] not in peers]}
