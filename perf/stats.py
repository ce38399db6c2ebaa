"""Medians and how sure one can be of them."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

#: Resamples of a bootstrap (Efron 1979); the interval is that of the percentiles.
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval, of ``count`` measurements."""

    value: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2) -> str:
        """Return it for a table: ``2.31 (2.28 to 2.40)``."""
        return f"{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def median(values: Sequence[float], seed: int = 0) -> Estimate:
    """Return the median with its interval. ``values`` must not be empty."""
    chance = random.Random(seed)
    found = [statistics.median(_again(values, chance)) for _ in range(RESAMPLES)]
    return _estimate(statistics.median(values), found, len(values))


def ratio(over: Sequence[float], under: Sequence[float], seed: int = 0) -> Estimate:
    """Return the ratio of two medians with its interval; the sides are resampled on their own."""
    chance = random.Random(seed)
    found = [
        statistics.median(_again(over, chance)) / statistics.median(_again(under, chance))
        for _ in range(RESAMPLES)
    ]
    value = statistics.median(over) / statistics.median(under)
    return _estimate(value, found, min(len(over), len(under)))


def _again(values: Sequence[float], chance: random.Random) -> list[float]:
    return chance.choices(values, k=len(values))


def _estimate(value: float, found: list[float], count: int) -> Estimate:
    found.sort()
    tail = (1 - CONFIDENCE) / 2
    last = len(found) - 1
    return Estimate(value, found[round(last * tail)], found[round(last * (1 - tail))], count)
