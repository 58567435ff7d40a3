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
import posix  # eventlet replaces open, read and write in `os`: these never touch a hub
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

_IDLE_READ: Final = 4096
_STANDARD_ERROR: Final = 2


class Bell:
    """A pipe between whoever captures and the one sender that reads."""

    def __init__(self) -> None:
        with above_standard():
            self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        # Both ends are one file on Linux, and two elsewhere.
        self._read_identity = _identify(self._read_end)
        self._write_identity = _identify(self._write_end)

    def ring(self) -> None:
        """Wake the sender, now or at its next wait."""
        if _identify(self._write_end) == self._write_identity:
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
            ours = _identify(self._read_end) == self._read_identity
            return bool((poll if ours else nothing).poll(max(0.0, seconds) * 1000))

        return watch

    def close(self) -> None:
        """Close both ends, where they are still ours."""
        ends = (self._read_end, self._read_identity), (self._write_end, self._write_identity)
        for end, identity in ends:
            if _identify(end) == identity:
                with suppress(OSError):
                    os.close(end)


def _identify(descriptor: int) -> tuple[int, int] | None:
    """Which file it is."""
    try:
        facts = posix.fstat(descriptor)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


@contextmanager
def above_standard() -> Iterator[None]:
    """Descriptors that are made meanwhile are not those of standard input, output and error.

    A daemon may have closed them, and a library that complains to number 2 would write
    into whatever has it.
    """
    taken: list[int] = []
    try:
        with suppress(OSError):
            while not taken or taken[-1] <= _STANDARD_ERROR:
                taken.append(posix.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            posix.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            posix.close(descriptor)
