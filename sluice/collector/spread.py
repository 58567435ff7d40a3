"""Durations as places on a logarithmic scale, so that a database can count them.

A place is 10 % wide: a percentile that is read from counts is within 5 % of the true one.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

_WIDTH: Final = math.log(1.1)
#: Below this, and above 10 years, durations are one place.
_SHORTEST: Final = 1e-5
_MOST: Final = 320


def place_of(duration: float | None) -> int | None:
    """The place of a duration in seconds."""
    if duration is None:
        return None
    if duration <= _SHORTEST:
        return 0
    return min(_MOST, 1 + int(math.log(duration / _SHORTEST) / _WIDTH))


def duration_at(place: int) -> float:
    """The middle of a place, in seconds."""
    return 0.0 if place <= 0 else _SHORTEST * math.exp((place - 0.5) * _WIDTH)


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """The duration below which this share lies (nearest rank); None where there are none."""
    total = sum(counts.values())
    if not total:
        return None
    left = math.ceil(total * share)
    for place in sorted(counts):
        left -= counts[place]
        if left <= 0:
            return duration_at(place)
    return None
