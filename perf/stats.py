"""Medians and how sure one can be of them."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

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
    ordered = sorted(values)
    middles = _middles(len(ordered), RESAMPLES, seed)
    found = [(ordered[low] + ordered[high]) / 2 for low, high in middles]
    return _estimate(statistics.median(ordered), found, len(ordered))


@cache
def _middles(count: int, resamples: int, seed: int) -> list[tuple[int, int]]:
    """The ranks of what is in the middle of each resample of so many values.

    They are the same for any values: a report has hundreds of medians, and drawing takes longest.
    """
    chance = random.Random(seed)
    low, high = (count - 1) // 2, count // 2
    drawn = (sorted(chance.choices(range(count), k=count)) for _ in range(resamples))
    return [(ranks[low], ranks[high]) for ranks in drawn]


@dataclass(frozen=True)
class Sides:
    """The values of two sides that are compared, none of them empty.

    ``paired`` says that the n-th ones are of one round: they are resampled together, so that what
    slowed down a whole round says nothing about their ratio.
    """

    over: Sequence[float]
    under: Sequence[float]
    paired: bool

    def ratio(self) -> float:
        """Return the ratio of the medians."""
        return statistics.median(self.over) / statistics.median(self.under)

    def again(self, chance: random.Random) -> Sides:
        """Return a resample."""
        if not self.paired:
            return Sides(_again(self.over, chance), _again(self.under, chance), paired=False)
        chosen = chance.choices(range(len(self.over)), k=len(self.over))
        over, under = [self.over[i] for i in chosen], [self.under[i] for i in chosen]
        return Sides(over, under, paired=True)

    @property
    def count(self) -> int:
        """The rounds of the side that has fewer."""
        return min(len(self.over), len(self.under))


def ratio(over: Sequence[float], under: Sequence[float], seed: int = 0) -> Estimate:
    """Return the ratio of two medians with its interval; paired where there are as many values."""
    return geometric_mean([Sides(over, under, len(over) == len(under))], seed)


def geometric_mean(several: Sequence[Sides], seed: int = 0) -> Estimate:
    """Return the geometric mean of ratios with its interval. ``several`` must not be empty.

    Rounds are resampled within each of them: the interval is that of these very scenarios, and
    says nothing of others. ``count`` is that of the one with the fewest rounds.
    """
    chance = random.Random(seed)
    found = [_mean([sides.again(chance) for sides in several]) for _ in range(RESAMPLES)]
    return _estimate(_mean(several), found, min(sides.count for sides in several))


def _mean(several: Sequence[Sides]) -> float:
    return math.prod(sides.ratio() for sides in several) ** (1 / len(several))


def _again(values: Sequence[float], chance: random.Random) -> list[float]:
    return chance.choices(values, k=len(values))


def _estimate(value: float, found: list[float], count: int) -> Estimate:
    found.sort()
    tail = (1 - CONFIDENCE) / 2
    last = len(found) - 1
    return Estimate(value, found[round(last * tail)], found[round(last * (1 - tail))], count)
