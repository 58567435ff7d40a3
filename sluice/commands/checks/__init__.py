"""What ``sluice doctor`` looks at: each check says what was found, and the line that mends it.

A check never raises for what it examines: that something is broken is its result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    #: What was found; never a key, a token or a password.
    found: str
    #: What to do where it is not ok.
    fix: str | None = None
    #: Whether it is about the configuration itself.
    is_setting: bool = False
