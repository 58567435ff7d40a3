"""Figures out of noisy measurements: ratios turn by turn, and how sure they are.

A ratio is always taken between two measurements of the same cycle, because a machine that drifts by
20 % in a minute is the same for both.  What is told of many ratios is their median, with the 95 %
interval of that median by resampling.  The ratio of two workers that are equal (A/A) shows what the
method cannot tell apart.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

_RESAMPLINGS = 2000


class Interval(NamedTuple):
    """A median, and the bounds within which it lies at 95 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"

    def is_none(self, band: Interval) -> bool:
        """Whether a ratio is no difference, seen against the band of two equal workers.

        The band is widened to hold 1: one that lies to one side of it is an accident of the run.
        """
        return min(band.low, 1.0) <= self.median <= max(band.high, 1.0)


def interval(values: Sequence[float]) -> Interval:
    """The median of `values` with its interval; the same values give the same bounds."""
    return _interval(tuple(values))


@cache  # a page asks for the same ones in sentences, tables and pictures
def _interval(values: tuple[float, ...]) -> Interval:
    source = random.Random(len(values))
    medians = sorted(
        statistics.median(source.choices(values, k=len(values))) for _ in range(_RESAMPLINGS)
    )
    edge = _RESAMPLINGS * 25 // 1000
    return Interval(statistics.median(values), medians[edge], medians[-1 - edge])


def ratios(mine: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each measurement over that of the baseline in the same cycle."""
    return [one / other for one, other in zip(mine, base, strict=True)]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the others do not exceed: 0.5 is the median, 1 the greatest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
