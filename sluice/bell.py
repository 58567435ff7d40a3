"""How a capturing process wakes the sender: a byte into a pipe, rarely.

Guarantees: `ring()` never waits, never raises, and may be called from a signal handler, a
forked child, any thread or greenlet.  `wait()` is for the sender's native thread only.

The sender is woken when a quarter of a ring has filled, not per event; otherwise it wakes
by itself once per flush interval.  A pool child inherits the pipe.  The child of
``worker -B`` closes every descriptor it inherited, and the number may since belong to a
broker's socket, so the pipe is recognised by its inode before a byte goes in.
"""

from __future__ import annotations

import os
import posix  # eventlet replaces read and write in `os`: these never touch a hub
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from sluice.descriptors import above_standard, identify

_IDLE_READ: Final = 4096


class Bell:
    """A pipe between whoever captures and the one sender that reads."""

    def __init__(self) -> None:
        with above_standard():
            self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        # Both ends are one file on Linux, and two elsewhere.
        self._read_identity = identify(self._read_end)
        self._write_identity = identify(self._write_end)

    def ring(self) -> None:
        """Wake the sender, now or at its next wait."""
        if identify(self._write_end) == self._write_identity:
            try:
                posix.write(self._write_end, b"\0")
            except OSError:
                pass  # full: it is awake already; broken: it is gone

    def waiter(self, select: Any) -> Callable[[float], bool]:
        """A function for the sender: wait up to so many seconds, or until rung; was it?

        `select` is the sender's own unpatched module of that name.
        """
        watch = self.watcher(select)

        def wait(seconds: float) -> bool:
            if not watch(seconds):
                return False
            try:
                posix.read(self._read_end, _IDLE_READ)
            except OSError:
                pass
            return True

        return wait

    def watcher(self, select: Any) -> Callable[[float], bool]:
        """A function that waits as `wait` does, says whether it was rung, and takes nothing."""
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        nothing = select.poll()

        def watch(seconds: float) -> bool:
            # Where it is not ours any more the time is to be waited all the same.
            ours = identify(self._read_end) == self._read_identity
            return bool((poll if ours else nothing).poll(max(0.0, seconds) * 1000))

        return watch

    def close(self) -> None:
        """Close both ends, where they are still ours."""
        ends = (self._read_end, self._read_identity), (self._write_end, self._write_identity)
        for end, identity in ends:
            if identify(end) == identity:
                with suppress(OSError):
                    os.close(end)
