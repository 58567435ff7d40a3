"""Sizes, durations and moments as people type them: ``512MiB``, ``24h``, ``10m`` ago."""

from __future__ import annotations

import argparse
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Final

_AMOUNT: Final = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]*)", re.ASCII)
#: Bytes; the short forms are those of the operating system's tools.
_SIZES: Final = (
    {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
    | {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    | {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
)
#: Seconds.
_TIMES: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def size(text: str) -> int:
    """Bytes.  Raises :class:`argparse.ArgumentTypeError`."""
    return int(_amount(text, _SIZES, "a size such as 500MB or 1GiB"))


def duration(text: str) -> float:
    """Seconds.  Raises :class:`argparse.ArgumentTypeError`."""
    return _amount(text, _TIMES, "a time such as 90s, 10m, 24h or 7d")


def rate(text: str) -> float:
    """Events a second; 0 is no limit.  Raises :class:`argparse.ArgumentTypeError`."""
    return _amount(text, {"": 1}, "a number of events a second, or 0")


def count(text: str) -> int:
    """A number above zero.  Raises :class:`argparse.ArgumentTypeError`."""
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def moment(text: str) -> datetime:
    """A time in UTC: so long ago, or ISO 8601, which is this machine's time if it has no zone.

    Raises :class:`argparse.ArgumentTypeError`.
    """
    try:
        return datetime.now(UTC) - timedelta(seconds=duration(text))
    except argparse.ArgumentTypeError:
        pass
    except OverflowError:
        return datetime.fromtimestamp(0, UTC)
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a time ago such as 10m nor an ISO time such as 2026-01-31T09:30"
        ) from None


def _amount(text: str, units: dict[str, int], wanted: str) -> float:
    found = _AMOUNT.fullmatch(text.strip())
    unit = units.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    amount = float(found[1]) * unit
    if not math.isfinite(amount):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return amount
