"""``sluice dev``: one process that serves a collector.

Guarantee: a client that says nothing, or little by little, is cut off: ten seconds for the head
of a request, and for what is left of one that was answered (a body that is read has twenty, see
``ingest``), thirty for a connection between requests.  So is one that takes nothing of its answer
for thirty seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sluice.collector.application import Collector
from sluice.collector.options import LOOPBACK, PORT, BadOption, Options

__all__ = ["BadOption", "Options", "greeting", "serve", "server"]

#: Seconds for the head of a request, for a connection that has nothing to say, and for one that
#: has not taken anything of what it asked for.
HEAD_TIMEOUT: Final = 10.0
_IDLE_TIMEOUT: Final = 30
SEND_TIMEOUT: Final = 30.0
#: Seconds at the end for what is under way, and after which a task is cancelled that goes on
#: without its client.  The SDK sends again what was not answered.
_GRACE: Final = 0.5
_CANCELLED_AFTER: Final = 2
_DESCRIPTORS: Final = 65_536
#: A collector takes any UUID; the SDK wants one.
_ANY_CONNECTION: Final = "00000000-0000-4000-8000-000000000000"


class _Hasty(H11Protocol):
    """Cuts off who owes us something, or does not take what it asked for."""

    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._paid()
        self._took()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        if not self._owes:
            self._paid()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    @property
    def _owes(self) -> bool:
        """Whether it is the client's turn, and nobody else counts the time."""
        state = self.conn.their_state
        if state is h11.SEND_BODY:  # that nobody waits for any more
            return bool(self.cycle.response_complete)
        begun = bool(self.conn.trailing_data[0])
        return state is h11.IDLE and (begun or self.timeout_keep_alive_task is None)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._let_go_unless_less_than(float("inf"))

    def resume_writing(self) -> None:
        super().resume_writing()
        self._took()

    def _let_go_unless_less_than(self, before: float) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting < before:
            check = self._let_go_unless_less_than
            self._stuck = self.loop.call_later(SEND_TIMEOUT, check, waiting)
        else:
            self.transport.abort()  # to close is to wait for it

    def _paid(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _took(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None


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
        late = asyncio.get_running_loop().call_later(_GRACE, self._hang_up)
        await super().shutdown(sockets)
        late.cancel()

    def _hang_up(self) -> None:
        """Wait no longer for who does not say all, or takes nothing: whoever serves them ends."""
        for one in list(self.server_state.connections):
            if isinstance(one, _Hasty):
                one.transport.abort()


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
        timeout_graceful_shutdown=_CANCELLED_AFTER,
    )
    return _Server(config, collector, ready)


def serve(options: Options) -> int:
    """Run until SIGTERM ends it.  The exit code.

    Raises :class:`BadOption`, and :class:`KeyboardInterrupt` once SIGINT has ended it.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    _raise_limit()
    collector = Collector(options)

    def ready(port: int) -> None:
        for line in greeting(collector, port):
            print(line, flush=True)  # noqa: T201  this is what the command says

    one = server(collector, ready)
    reasons = _Reasons()
    logging.getLogger("uvicorn.error").addFilter(reasons)
    try:
        with _ended_in_order(one):
            one.run()
    except SystemExit:
        print(  # noqa: T201
            f"Nothing can listen on {options.host} port {options.port}: {reasons}."
            " Choose another with --port.",
            file=sys.stderr,
        )
        return 1
    finally:
        logging.getLogger("uvicorn.error").removeFilter(reasons)
        collector.close()  # where it never served, or did not end in order
    return 0 if one.started else 1


@contextlib.contextmanager
def _ended_in_order(one: uvicorn.Server) -> Iterator[None]:
    """SIGTERM is no fault: uvicorn raises it once more when it has ended, which would kill."""

    def end(*_: object) -> None:
        one.should_exit = True

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Reasons(logging.Filter):
    """Keeps why nothing can listen out of the log, and for the one line that is said of it."""

    _error: OSError | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, OSError):
            self._error = record.msg
        return not isinstance(record.msg, OSError)

    def __str__(self) -> str:
        if self._error is None or self._error.errno is None:
            return "the log says why"
        if isinstance(self._error, socket.gaierror):
            return str(self._error.strerror)
        return os.strerror(self._error.errno)


def greeting(collector: Collector, port: int) -> list[str]:
    """What is said once it listens."""
    options = collector.options
    host = options.host.strip("[]")
    wide = host in ("0.0.0.0", "::")  # noqa: S104  a name is shown in its place
    shown = (*options.allowed_hosts, socket.gethostname())[0] if wide else host
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
    query = f"/?token={collector.token}" if collector.token else "/"
    lines = [f"The page:     {url}{query}", f"Events:       {url}/api/ingest"]
    if collector.api_key is not None:
        key = "<its key>" if collector.api_key == options.api_key else collector.api_key
        lines.append(
            f"Send to it:   export SLUICE_API_URL={url}/api SLUICE_API_KEY={key}"
            f" SLUICE_CONNECTION_ID={_ANY_CONNECTION}"
        )
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
