"""A clock for tests of loops and back-offs: no test sleeps to see time pass."""

from __future__ import annotations


class FakeClock:
    """Time that passes only by `advance()` and by being waited for.  Seconds."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        #: Every wait there was, in order: what a back-off decided.
        self.waits: list[float] = []

    def __repr__(self) -> str:
        return f"<FakeClock {self._now:.3f}, {len(self.waits)} waits>"

    def monotonic(self) -> float:
        """The time now."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass.  :class:`ValueError` for a negative number."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: {seconds}")
        self._now += seconds

    def wait(self, timeout: float) -> bool:
        """Pass `timeout` at once, as an `Event.wait` that nobody ends early: False."""
        self.waits.append(timeout)
        self.advance(max(0.0, timeout))
        return False
