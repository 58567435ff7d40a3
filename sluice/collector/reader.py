"""What is asked of the database, in a few threads; what is dear is asked once for all.

An answer that counts everything is kept for a second, and for five times as long as it took:
however many pages look on, counting takes at most a sixth of one core.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import anyio.to_thread
import sqlalchemy as sa
from anyio import CapacityLimiter

from sluice.collector import summary
from sluice.collector.database import Database
from sluice.collector.options import Options
from sluice.collector.schema import fact

_THREADS: Final = 4
_KEPT: Final = 1.0
_TIMES: Final = 5.0
#: Seconds for which the usual run times stand.
_USUAL_KEPT: Final = 5.0

_T = TypeVar("_T")


class _Kept:
    """An answer, and how long it stands."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.value: Any = None
        self.until = -1.0


class Reader:
    """Runs queries beside the event loop."""

    def __init__(self, database: Database, options: Options) -> None:
        self._database = database
        self._options = options
        self._limiter = CapacityLimiter(_THREADS)
        self._kept: dict[str, _Kept] = {}

    async def run(self, query: Callable[[sa.Connection], _T]) -> _T:
        """What a query gives, in a transaction that only reads."""
        return await anyio.to_thread.run_sync(self._run, query, limiter=self._limiter)

    def _run(self, query: Callable[[sa.Connection], _T]) -> _T:
        with self._database.reading.begin() as connection:
            return query(connection)

    async def usual(self) -> dict[str, float]:
        """Name -> the run time that 95 % of its tasks stay below, in seconds."""
        return await self._once("usual", summary.usual_runs, _USUAL_KEPT)

    async def now(self) -> dict[str, Any]:
        """See :func:`summary.now`."""
        return await self._once("now", lambda one: summary.now(one, time.time(), self._options))

    async def failures(self) -> dict[str, Any]:
        """See :func:`summary.failures`."""
        return await self._once("failures", lambda one: summary.failures(one, time.time()))

    async def names(self) -> dict[str, Any]:
        """See :func:`summary.names`."""
        return await self._once("names", summary.names)

    async def queues(self) -> dict[str, Any]:
        """See :func:`summary.all_queues`."""
        return await self._once("queues", lambda one: summary.all_queues(one, time.time()))

    async def workers(self) -> dict[str, Any]:
        """See :func:`summary.all_workers`."""
        return await self._once("workers", lambda one: summary.all_workers(one, time.time()))

    async def seq(self) -> int:
        """The number of the last change."""
        return int(await self.run(partial(fact, name="seq")))

    def forget(self) -> None:
        """Everything was cleared."""
        self._kept.clear()

    async def _once(
        self, name: str, query: Callable[[sa.Connection], _T], kept_for: float = _KEPT
    ) -> _T:
        kept = self._kept.setdefault(name, _Kept())
        async with kept.lock:
            if time.monotonic() >= kept.until:
                start = time.monotonic()
                kept.value = await self.run(query)
                end = time.monotonic()
                kept.until = end + max(kept_for, _TIMES * (end - start))
            found: _T = kept.value
            return found
