"""The demo's collector: that of ``sluice dev``, in a thread, and what came to it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Self

from sluice.collector.application import Collector
from sluice.collector.options import Options
from sluice.collector.server import server
from sluice.testing.http import Answer, Received

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_START_TIMEOUT: Final = 15.0
_END_TIMEOUT: Final = 10.0
_INGEST: Final = "/api/ingest"


class Endpoint:
    """A collector on this machine, from construction to `close()`.

    Raises :class:`sluice.collector.options.BadOption` where it cannot keep anything, and
    :class:`RuntimeError` where it does not start.
    """

    def __init__(self, api_key: str) -> None:
        self._lock = threading.Lock()
        self._requests: list[Received] = []
        self._connections: dict[tuple[str, int], int] = {}
        self._listening = threading.Event()
        self._port = 0
        collector = Collector(Options(port=0, api_key=api_key))
        collector.app = _Watched(collector.app, self)
        self._server = server(collector, self._listens)
        self._thread = threading.Thread(target=self._server.run, name="demo-collector", daemon=True)
        self._thread.start()
        if not self._listening.wait(_START_TIMEOUT):
            self.close()
            raise RuntimeError("the collector did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def page(self) -> str:
        """Where to look."""
        return f"http://127.0.0.1:{self._port}/"

    @property
    def url(self) -> str:
        """What `api_url` wants."""
        return f"{self.page}api"

    @property
    def requests(self) -> list[Received]:
        """All requests with events so far, in order of arrival."""
        with self._lock:
            return self._requests.copy()

    def add(self, client: tuple[str, int], body: bytes, answer: Answer) -> None:
        """A request was answered."""
        with self._lock:
            number = self._connections.setdefault(client, len(self._connections) + 1)
            at = time.monotonic()
            self._requests.append(Received("POST", _INGEST, {}, body, at, number, answer))

    def close(self) -> None:
        """Stop, and let what was kept go.  May be repeated."""
        self._server.should_exit = True
        self._thread.join(_END_TIMEOUT)

    def _listens(self, port: int) -> None:
        self._port = port
        self._listening.set()


class _Watched:
    """Notes what comes to the ingest endpoint, and what is answered."""

    def __init__(self, app: ASGIApp, endpoint: Endpoint) -> None:
        self._app = app
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _INGEST:
            await self._app(scope, receive, send)
            return
        body, answer = bytearray(), bytearray()
        status = 500

        async def received() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))
            await send(message)

        await self._app(scope, received, sent)
        told = Answer(status, body=bytes(answer))
        self._endpoint.add(tuple(scope["client"]), bytes(body), told)
