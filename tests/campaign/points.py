"""What the campaign is made of: a point is a claim, its parts are tried one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]
"""Numbers by name, and numbers by name by name. Over the parts of a point they are added up; of a
name that begins with ``most`` the largest is taken."""


class CampaignError(Exception):
    """A part could not be tried, so it says nothing about the claim; the text is for people."""


@dataclass(frozen=True)
class Found:
    """What a part has found; ``misses`` are what contradicts the claim, in words."""

    figures: Figures
    misses: Sequence[str] = ()


@dataclass(frozen=True)
class Scene:
    """What a part works with."""

    directory: Path
    """Empty, its path short enough for sockets; in memory if there is room."""
    seed: str
    """Whatever is random follows from it."""
    say: Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A piece of a point that is tried as a whole, and not again when it is in the book."""

    name: str
    work: Callable[[Scene], Found]
    """Raises AssertionError for what contradicts the claim, or TimeoutError where something is
    stuck; any other error if it could not be tried."""


@dataclass(frozen=True)
class Point:
    """A claim. ``parts`` makes a number of steps into parts."""

    number: int
    name: str
    claim: str
    unit: str
    """What a step is."""
    full: int
    """Steps of the campaign."""
    quick: int
    """Steps that take a minute or a few."""
    parts: Callable[[int], list[Part]]
    minutes: str
    """What the whole takes on two cores, and what the quick run does."""
    room: int = field(default=1 << 30)
    """Bytes below the directory of a part."""


def total(parts: Sequence[Figures]) -> dict[str, Any]:
    """Add up the figures of several parts."""
    summed: dict[str, Any] = {}
    for figures in parts:
        for name, value in figures.items():
            if name not in summed:
                summed[name] = value
            elif isinstance(value, Mapping):
                summed[name] = total([summed[name], value])
            elif name.startswith("most"):
                summed[name] = max(summed[name], value)
            else:
                summed[name] += value
    return summed


def pieces(steps: int, most: int) -> list[tuple[int, int]]:
    """Cut steps into pieces of at most so many: first step and number of steps of each."""
    return [(first, min(most, steps - first)) for first in range(0, steps, most)]
