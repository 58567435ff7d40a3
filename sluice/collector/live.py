"""Who looks at the page hears of changes: a number that grows, never the data itself.

A page that hears of a new number reads again what it shows, so nothing is missed by whom the
connection was lost, and a slow page costs nothing but its own lateness.  Between processes the
numbers come through PostgreSQL's ``LISTEN``/``NOTIFY``; everywhere they are also looked up now
and then, because a notification can be lost with its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

#: Seconds between two words to one page, and of silence before it is told that all is well.
PACE: Final = 0.25
QUIET: Final = 15.0


class Ticks:
    """The number of the last change, for any number of waiters in one event loop."""

    def __init__(self) -> None:
        self.seq = 0
        self._changed = asyncio.Event()
        self._ended = False

    def poke(self, seq: int) -> None:
        """There is a change.  In the loop's thread."""
        if seq > self.seq:
            self.seq = seq
            self._wake()

    def end(self) -> None:
        """Let all streams end: the server stops."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def stream(self) -> AsyncIterator[int | None]:
        """The number now, then every later one, not too often; None where nothing changes."""
        told = -1
        while not self._ended:
            changed = self._changed
            if self.seq != told:
                told = self.seq
                yield told
                await asyncio.sleep(PACE)
                continue
            try:
                async with asyncio.timeout(QUIET):
                    await changed.wait()
            except TimeoutError:
                yield None
