"""What a strategy is: a way to run the sender on a native thread, and to wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Transport(Protocol):
    """Runs one function on a native operating-system thread."""

    @property
    def name(self) -> str:
        """What a person reads in `stats()` and in a log."""

    def start(self, run: Callable[[], None], refused: Callable[[Exception], None]) -> None:
        """Run `run` on a native thread.  Returns at once, also inside an event loop's hub.

        Where no thread can be started `refused` hears why, now or in a later turn of the
        hub, and `run` is never called.
        """

    def wait_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait for `done()` the way this process waits: an event loop keeps turning.

        Returns `done()`.  Inside a hub, where nothing may wait, returns at once.
        """

    def abandon(self) -> None:
        """The thread did not end in time: see that the process does not wait for it."""
