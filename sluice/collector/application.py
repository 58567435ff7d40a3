"""The parts of a collector, wired, and what is done in the background.

Guarantees
----------
* What is done in the background goes on after a fault, which is logged, at most once a minute.
* At its end, what was accepted is in the database; pages are let go at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import anyio.to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from sluice.collector.answers import unavailable
from sluice.collector.database import Database
from sluice.collector.guard import Guard
from sluice.collector.ingest import Ingest
from sluice.collector.listing import BadQuery
from sluice.collector.live import Ticks
from sluice.collector.options import Options
from sluice.collector.reader import Reader
from sluice.collector.routes import Api, on_bad_query, on_fault, on_http_error
from sluice.collector.store import Store
from sluice.collector.writer import Writer

_SOON: Final = 1.0
_NOW_AND_THEN: Final = 5.0
_TOLD_AGAIN: Final = 60.0
END_TIMEOUT: Final = 3.0

_logger = logging.getLogger("sluice.collector")


class Collector:
    """The application and what it needs, from construction to `close`.

    Raises :class:`BadOption` where the database cannot be used.
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self.token = options.token or (secrets.token_urlsafe(24) if options.is_open else None)
        self.api_key = options.api_key
        if self.api_key is None and options.is_open:
            self.api_key = f"sk_dev_{secrets.token_urlsafe(24)}"
        self._database = Database(options)
        self.where = self._database.where
        self._told: dict[str, float] = {}
        self._ticks: Ticks | None = None
        # Whatever is begun here is ended by `_life`.
        self.app: ASGIApp = Guard(
            Starlette(
                lifespan=self._life,
                exception_handlers={
                    BadQuery: on_bad_query,
                    HTTPException: on_http_error,
                    SQLAlchemyError: self._on_database_error,
                    Exception: on_fault,
                },
            ),
            hosts=self._hosts(),
            token=self.token,
        )

    def let_go(self) -> None:
        """End what pages listen to, so that the server can end."""
        if self._ticks is not None:
            self._ticks.end()

    def close(self) -> None:
        """Close the database, where the server never ran."""
        self._database.close()

    def _hosts(self) -> tuple[str, ...] | None:
        if self.options.is_open and not self.options.allowed_hosts:
            return None  # nobody knows all its names; the token is what counts
        return (
            self.options.host.strip("[]"),
            socket.gethostname(),
            *self.options.allowed_hosts,
        )

    async def _on_database_error(self, _: Request, error: Exception) -> Response:
        self._tell("reading", error)
        return unavailable()

    @contextlib.asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        ticks, store = Ticks(), Store(self._database)

        def changed(seq: int) -> None:
            loop.call_soon_threadsafe(ticks.poke, seq)

        writer = Writer(store, changed)
        reader = Reader(self._database, self.options)
        ingest = Ingest(
            writer,
            api_key=self.api_key,
            rate_limit=self.options.rate_limit,
            on_trouble=lambda error: self._tell("writing", error),
        )

        async def clear() -> int:
            ingest.counts.clear()  # what was not written yet is of before
            number, seq = await anyio.to_thread.run_sync(store.clear)
            reader.forget()
            ticks.poke(seq)
            return number

        app.router.routes.extend(Api(reader, ingest, ticks, clear).routes())
        listener = self._listener(changed)
        count = self._count(store, ingest)
        rounds = [
            asyncio.create_task(self._again(place, pause, turn))
            for place, pause, turn in (
                ("looking for changes", _SOON, self._look(reader, ticks)),
                ("counting", _SOON, count),
                ("keeping house", _NOW_AND_THEN, self._keep(store, ticks)),
            )
        ]
        self._ticks = ticks
        try:
            yield
        finally:
            ticks.end()
            for one in rounds:
                one.cancel()
            await asyncio.gather(*rounds, return_exceptions=True)
            await self._once("counting", count)
            if listener is not None:
                listener.close()
            await anyio.to_thread.run_sync(writer.close, END_TIMEOUT)
            self._database.close()

    def _listener(self, changed: Callable[[int], None]) -> Any:
        if not self._database.is_postgres:
            return None
        from sluice.collector.listener import Listener

        return Listener(self._database.url, changed)

    async def _again(self, place: str, pause: float, turn: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(pause)
            await self._once(place, turn)

    async def _once(self, place: str, turn: Callable[[], Awaitable[None]]) -> None:
        try:
            await turn()
        except Exception as error:  # noqa: BLE001  the next turn may do better
            self._tell(place, error)

    @staticmethod
    def _look(reader: Reader, ticks: Ticks) -> Callable[[], Awaitable[None]]:
        async def turn() -> None:
            ticks.poke(await reader.seq())

        return turn

    @staticmethod
    def _count(store: Store, ingest: Ingest) -> Callable[[], Awaitable[None]]:
        async def turn() -> None:
            if any(ingest.counts.values()):
                counts: dict[str, float] = dict(ingest.counts)
                ingest.counts.clear()  # a round that is cancelled has written them all the same
                try:
                    await anyio.to_thread.run_sync(store.count, counts)
                except Exception:
                    ingest.counts.update({name: int(number) for name, number in counts.items()})
                    raise

        return turn

    def _keep(self, store: Store, ticks: Ticks) -> Callable[[], Awaitable[None]]:
        async def turn() -> None:
            def prune() -> int | None:
                return store.prune(
                    tasks_kept=self.options.max_tasks,
                    bytes_kept=self.options.max_bytes,
                    oldest=time.time() - self.options.max_age,
                )

            for work in (store.lose_silent, prune):
                while (seq := await anyio.to_thread.run_sync(work)) is not None:
                    ticks.poke(seq)

        return turn

    def _tell(self, place: str, error: Exception) -> None:
        now = time.monotonic()
        if now - self._told.get(place, -_TOLD_AGAIN) >= _TOLD_AGAIN:
            self._told[place] = now
            first = (str(error).splitlines() or [""])[0]
            _logger.warning("[sluice] %s failed: %s: %s", place, type(error).__name__, first)
