"""``sluice dev``: one process that serves a collector.

Guarantee: a client that says nothing, or little by little, is cut off: ten seconds for the head
of a request (its body has twenty, see ``ingest``), thirty for a connection between requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import sys
from collections.abc import Callable
from typing import Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sluice.collector.application import END_TIMEOUT, Collector
from sluice.collector.options import LOOPBACK, PORT, BadOption, Options

__all__ = ["BadOption", "Options", "greeting", "serve", "server"]

#: Seconds for the head of a request, and for a connection that has nothing to say.
HEAD_TIMEOUT: Final = 10.0
_IDLE_TIMEOUT: Final = 30
_DESCRIPTORS: Final = 65_536


class _Hasty(H11Protocol):
    """Cuts off who does not finish the head of a request."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch(begun=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch(begun=bool(self.conn.trailing_data[0]))

    def _watch(self, *, begun: bool) -> None:
        if self.conn.their_state is h11.IDLE and begun:
            if self._late is None:
                self._late = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)
        else:
            self._rest()

    def _rest(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Server(uvicorn.Server):
    """Lets the pages go when it is told to end, and says where it listens."""

    def __init__(
        self, config: uvicorn.Config, collector: Collector, ready: Callable[[int], None]
    ) -> None:
        super().__init__(config)
        self._collector = collector
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.servers:
            self._ready(self.servers[0].sockets[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._collector.let_go()
        await super().shutdown(sockets)


def server(collector: Collector, ready: Callable[[int], None]) -> uvicorn.Server:
    """The server of a collector; `ready` hears the port once it listens."""
    config = uvicorn.Config(
        collector.app,
        host=collector.options.host.strip("[]"),
        port=collector.options.port,
        http=_Hasty,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_IDLE_TIMEOUT,
        timeout_graceful_shutdown=int(END_TIMEOUT),
    )
    return _Server(config, collector, ready)


def serve(options: Options) -> int:
    """Run until a signal ends it.  The exit code.  Raises :class:`BadOption`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _raise_limit()
    collector = Collector(options)

    def ready(port: int) -> None:
        for line in greeting(collector, port):
            print(line, flush=True)  # noqa: T201  this is what the command says

    one = server(collector, ready)
    try:
        one.run()
    except SystemExit:
        collector.close()
        print(  # noqa: T201
            f"Nothing can listen on {options.host} port {options.port}: it is taken, or not this"
            " machine's. Choose another with --port.",
            file=sys.stderr,
        )
        return 1
    return 0 if one.started else 1


def greeting(collector: Collector, port: int) -> list[str]:
    """What is said once it listens."""
    options = collector.options
    host = options.host.strip("[]")
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    query = f"/?token={collector.token}" if collector.token else "/"
    lines = [f"The page:     {url}{query}", f"Events:       {url}/api/ingest"]
    if options.is_open or collector.api_key is not None:
        lines.append(f"Send to it:   export SLUICE_API_URL={url}/api SLUICE_API_KEY=<its key>")
        if collector.api_key != options.api_key:
            lines.append(f"Its key:      {collector.api_key}")
    else:
        dev = "1" if (host, port) == (LOOPBACK, PORT) else url
        lines.append(f"Send to it:   export SLUICE_DEV={dev}")
    kept = "until it ends, in memory" if collector.where == "in memory" else f"in {collector.where}"
    lines += [f"Kept:         {kept}", "Stop it with Ctrl-C."]
    return lines


def _raise_limit() -> None:
    """As many connections as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
