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
    """Return the ratio of two medians with its interval.

    Where the sides have as many values, the n-th ones are of one round and are resampled
    together: what slowed down a whole round then says nothing about their ratio.
    """
    chance = random.Random(seed)
    found = [
        statistics.median(first) / statistics.median(second)
        for first, second in (_both_again(over, under, chance) for _ in range(RESAMPLES))
    ]
    value = statistics.median(over) / statistics.median(under)
    return _estimate(value, found, min(len(over), len(under)))


def _both_again(
    over: Sequence[float], under: Sequence[float], chance: random.Random
) -> tuple[Sequence[float], Sequence[float]]:
    if len(over) != len(under):
        return _again(over, chance), _again(under, chance)
    chosen = chance.choices(range(len(over)), k=len(over))
    return [over[i] for i in chosen], [under[i] for i in chosen]


def _again(values: Sequence[float], chance: random.Random) -> list[float]:
    return chance.choices(values, k=len(values))


def _estimate(value: float, found: list[float], count: int) -> Estimate:
    found.sort()
    tail = (1 - CONFIDENCE) / 2
    last = len(found) - 1
    return Estimate(value, found[round(last * tail)], found[round(last * (1 - tail))], count)
