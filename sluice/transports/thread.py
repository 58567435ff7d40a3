"""A plain daemon thread: for prefork's MAIN, threads, solo, web, beat and scripts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

#: Seconds between two looks, at first and at most.
_FIRST_LOOK: Final = 0.001
_SLOWEST_LOOK: Final = 0.02


class PlainThread:
    """The strategy of a process that nobody has patched."""

    name = "thread"

    def __init__(self, thread_class: Any = threading.Thread) -> None:
        self._thread_class = thread_class

    def start(self, run: Callable[[], None], refused: Callable[[Exception], None]) -> None:
        """Start the thread.  A daemon, so that the process never waits for it."""
        try:
            self._thread_class(target=run, name="sluice-sender", daemon=True).start()
        except RuntimeError as error:
            refused(error)

    def wait_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Look again and again: no lock, so that a signal handler may do this too."""
        return look_until(done, seconds, time.sleep)

    def abandon(self) -> None:
        """Nothing to do: the interpreter does not wait for a daemon thread."""


def look_until(done: Callable[[], bool], seconds: float, sleep: Callable[[float], object]) -> bool:
    """Call `done()` until it is true or so many seconds have passed, sleeping in between."""
    until = time.monotonic() + seconds
    look = _FIRST_LOOK
    while not done():
        left = until - time.monotonic()
        if left <= 0:
            return False
        sleep(min(look, left))
        look = min(2 * look, _SLOWEST_LOOK)
    return True
