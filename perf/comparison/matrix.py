"""What is compared: cells of peers that take turns, and how long each takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from perf.ballast import BALLAST
from perf.comparison.names import (
    CROWDS,
    DANCE,
    IN_CROWDS,
    PEERS,
    SCENARIOS,
    VARIANTS,
    crowd,
    crowd_of,
    taking_part,
)
from perf.network import LINKS

CHANGES = ("line", "dependency", "dockerfile", "nothing", "base")

_COLD_S: Mapping[str, float] = {
    "python": 85, "go": 60, "node": 60, "java": 70, "monorepo": 90, "manyfiles": 300,
    "cache-0.1gb": 15, "cache-1gb": 20, "cache-10gb": 90, "cache-100gb": 300,
}  # fmt: skip
"""Seconds of a cold build on two cores, for the estimate of the whole."""

_SHARES: Mapping[str, tuple[float, float, float]] = {
    "buildsvc-first": (0.0, 1.1, 5.0),
    "buildsvc-0s": (1.2, 0.05, 5.0),
    "buildsvc-5s": (0.0, 0.05, 9.0),
    "buildsvc-20s": (0.0, 0.05, 24.0),
    "warm": (1.0, 0.03, 1.0),
    "buildkit-cold": (0.0, 1.0, 3.0),
    "buildkit-registry-zstd": (1.4, 0.25, 3.0),
    "buildkit-registry-gzip": (1.6, 0.25, 3.0),
    "buildkit-registry-plain": (1.4, 0.4, 3.0),
    "buildkit-cache-dance": (1.6, 0.25, 6.0),
    "buildkit-inline": (1.1, 0.6, 3.0),
    "buildkit-inline-zstd": (1.1, 0.6, 3.0),
    "buildkit-local": (1.4, 0.3, 3.0),
    "buildkit-local-zstd": (1.4, 0.3, 3.0),
    "buildkit-s3-zstd": (1.5, 0.25, 3.0),
    "buildkit-s3-gzip": (1.6, 0.25, 3.0),
    "kaniko": (1.5, 0.9, 3.0),
    "dind-cold": (0.0, 1.1, 5.0),
    "dind-cache-from": (1.5, 0.4, 5.0),
    "dind-kept": (1.1, 0.1, 5.0),
    "buildah": (1.3, 0.8, 3.0),
}
"""For the estimate: of a cold build the first one and each round, and seconds beside each round."""

#: The best of each kind: those whose every build is a cold one would take hours more.
_FEW = (
    *("buildsvc-0s", "buildsvc-20s", "warm"),
    *("buildkit-registry-zstd", DANCE, "dind-cache-from"),
)
#: Two scenarios on which every axis is varied alone.
_VARIED = ("python", "go")
#: Of which memory holds sixteen pods.
_CROWDED = ("node", "cache-0.1gb")
#: Those that build with cache mounts, or without; and where these gain most and least.
_KNOW_MOUNTS = (
    *("buildsvc-0s", "buildsvc-20s", "warm", "buildkit-cold", "buildkit-registry-zstd"),
    *("dind-cache-from", "buildah"),
)
_MOUNTED = ("python", "monorepo")
#: Caches as gzip and as zstd, beside each other.
_COMPRESSED = ("buildsvc-0s", "buildkit-inline", "buildkit-local", *VARIANTS)
#: Those whose time depends on how much there is in the cache, or might.
_SIZED = ("buildsvc-0s", "buildsvc-20s", "buildkit-registry-zstd", "buildkit-local")
#: Roots of 10 GB, of which memory holds one beside registry and store.
_LARGE = ("manyfiles", "cache-10gb", "cache-100gb")
#: How many families' files a memory of 23 GB holds, where these are not all.
_AT_ONCE: Mapping[str, int] = {"java": 8, "monorepo": 5} | dict.fromkeys(_LARGE, 1)
_SETUP_S = 45.0


@dataclass(frozen=True)
class Cell:
    """Peers that take turns at one change of one scenario on one network."""

    scenario: str
    peers: tuple[str, ...] = PEERS
    rounds: int = 5
    axis: str = "base"
    change: str = "line"
    network: str = "1gbit-1ms"
    medium: str = "tmpfs"
    mounts: bool = True

    @property
    def name(self) -> str:
        """What the results call it."""
        mounts = "" if self.mounts else " without-mounts"
        axis = f" {self.axis}" if self.axis in {"pods", "compression"} else ""
        return f"{self.scenario} {self.change} {self.network} {self.medium}{mounts}{axis}"

    @property
    def at_once(self) -> int:
        """How many families of peers take turns, before the next ones do; all where it is 0."""
        return _AT_ONCE.get(self.scenario, 0)

    @property
    def large(self) -> bool:
        """Whether it needs more room than most."""
        return self.scenario in _LARGE or self.change in {"base", "dockerfile"}

    def about(self) -> dict[str, object]:
        """For the results."""
        about: dict[str, object] = {
            "axis": self.axis,
            "scenario": self.scenario,
            "change": self.change,
            "network": self.network,
            "medium": self.medium,
            "mounts": self.mounts,
            "apart": self.at_once > 0,
        }
        if ballast := BALLAST.get(self.scenario):
            about |= {"cache_bytes": ballast.size, "simulated": ballast.holes}
        return about

    def seconds(self, done: Mapping[str, Sequence[int]]) -> float:
        """Reckon how long what is missing takes."""
        cold = _COLD_S[self.scenario]
        total = 0.0
        for peer in self.peers:
            rounds = self.rounds - len(done.get(peer, ()))
            if rounds:
                name, pods = crowd(peer)
                first, each, beside = _SHARES[name]
                settle = 1 if first else 0
                total += cold * first + (rounds + settle) * (pods * cold * each + beside)
        return total + _SETUP_S if total else 0.0


def matrix() -> list[Cell]:
    """Return every cell: the base, each other axis alone on two scenarios, and caches that grow."""
    cells = [Cell(name, taking_part(name)) for name in SCENARIOS]
    for name in _VARIED:
        one = Cell(name, _FEW, rounds=3)
        cells += [replace(one, axis="change", change=c) for c in CHANGES if c != one.change]
        cells += [replace(one, axis="network", network=n) for n in LINKS if n != one.network]
        cells.append(replace(one, axis="medium", medium="disk"))
        cells.append(replace(one, axis="compression", peers=_COMPRESSED))
    cells += [Cell(name, _KNOW_MOUNTS, rounds=3, axis="mounts", mounts=False) for name in _MOUNTED]
    crowds = tuple(crowd_of(peer, pods) for pods in CROWDS for peer in IN_CROWDS)
    cells += [Cell(name, crowds, rounds=3, axis="pods") for name in _CROWDED]
    cells += [Cell(name, _SIZED, rounds=3, axis="size") for name in BALLAST]
    return cells


def quick() -> list[Cell]:
    """Return what shows the same in a quarter of an hour.

    `node`, since it flatters least of those that are short: caches in a registry help it most.
    """
    peers = (
        "buildsvc-0s", "buildsvc-20s", "warm", "buildkit-registry-zstd", "kaniko",
        "dind-cache-from",
    )  # fmt: skip
    return [Cell("node", peers, rounds=2)]


def chosen(
    cells: Iterable[Cell],
    *,
    axes: Sequence[str] = (),
    scenarios: Sequence[str] = (),
    peers: Sequence[str] = (),
    rounds: int = 0,
) -> list[Cell]:
    """Return those cells that were asked for, with as many rounds; all where nothing was."""
    found = []
    for cell in cells:
        kept = tuple(peer for peer in cell.peers if not peers or crowd(peer)[0] in peers)
        wanted = (not axes or cell.axis in axes) and (not scenarios or cell.scenario in scenarios)
        if kept and wanted:
            found.append(replace(cell, peers=kept, rounds=rounds or cell.rounds))
    return found
