"""File descriptors where others close and open them too: whose one is, and which ones we get."""

from __future__ import annotations

import os
import posix  # eventlet replaces open in `os`: this never touches a hub
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_STANDARD_ERROR: Final = 2


def identify(descriptor: int) -> tuple[int, int] | None:
    """Which file it is; None where it is closed."""
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
