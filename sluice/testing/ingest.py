"""A local ingest endpoint over real sockets, for tests and for the demo.

Rules it keeps
--------------
* A 2xx :class:`Answer` keeps the batch, also where `fault` then loses the answer: that is
  how a duplicate is born.  A batch whose request hangs is not kept: nobody looked at it.
* Nothing outlives :meth:`IngestServer.close`: delays are cut, stuck connections closed.
* Its threads are those of `threading`: in a monkey-patched process run it in another one.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

import msgspec

from sluice.events import Envelope
from sluice.testing.http import Answer, Behaviour, Received, read, refuse, written

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

#: The contract's limits for one request.
BODY_LIMIT: Final = 1024 * 1024
EVENTS_LIMIT: Final = 1000

_BASE: Final = "/api"
_TLS_HANDSHAKE_TIMEOUT: Final = 10.0
_CLOSE_TIMEOUT: Final = 2.0

_decode_batch = msgspec.json.Decoder(Envelope).decode


class IngestServer:
    """An ingest endpoint on this machine, listening from construction to `close()`.

    `answer` can be replaced at any time.  Before it is asked, the server itself answers
    ``GET /api/health``, unknown paths (404) and, where `api_key` is given, a wrong key
    (401).  With `check`, a batch that is about to be accepted must keep the contract: 413
    over its size or count limit, 400 where an event breaks the wire types.  ``check=False``
    accepts bodies unread, for measurements in which decoding would be in the way.

    Raises :class:`OSError` where the address cannot be had.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        api_key: str | None = None,
        answer: Behaviour | None = None,
        check: bool = True,
        body_limit: int = BODY_LIMIT,
        events_limit: int = EVENTS_LIMIT,
    ) -> None:
        self.answer: Behaviour = answer or Answer()
        self._tls = tls
        self._api_key = api_key
        self._check = check
        self._body_limit = body_limit
        self._events_limit = events_limit
        self._changed = threading.Condition()
        self._changes = 0
        self._requests: list[Received] = []
        self._accepted_ids: set[str] = set()
        self._events: list[dict[str, Any]] = []
        self._events_ids: set[str] = set()
        self._events_read = 0
        self._closing = threading.Event()
        self._open: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        #: Connections ever accepted: two requests on one say that keep-alive works.
        self.connections = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=128)
        self.port: int = self._listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        #: The base URL, what `api_url` wants.
        self.url = f"{'https' if tls else 'http'}://{name}:{self.port}{_BASE}"
        self._wake, self._woken = socket.socketpair()
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closing.is_set() else "open"
        with self._changed:
            return (
                f"<IngestServer {self.url} {state}, {len(self._requests)} requests "
                f"on {self.connections} connections>"
            )

    @property
    def requests(self) -> list[Received]:
        """All requests so far, in order of arrival."""
        with self._changed:
            return self._requests.copy()

    def events(self) -> list[dict[str, Any]]:
        """Accepted events in order of arrival, those of one ``extensions.eventId`` once.

        Decodes what has come since the last call, so that receiving stays cheap.
        """
        with self._changed:
            for received in self._requests[self._events_read :]:
                if received.kept:
                    for event in received.events:
                        event_id = _id_of(event)
                        if event_id is None or event_id not in self._events_ids:
                            self._events.append(event)
                        if event_id is not None:
                            self._events_ids.add(event_id)
            self._events_read = len(self._requests)
            return self._events.copy()

    def wait_for(self, predicate: Callable[[IngestServer], bool], timeout: float) -> bool:
        """Wait until `predicate` holds, asking after every request.  Says whether it does."""
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                seen = self._changes
            if predicate(self):
                return True
            with self._changed:
                while self._changes == seen:
                    if not self._changed.wait(deadline - time.monotonic()):
                        return False

    def close(self) -> None:
        """Stop listening, cut every connection and wait for the threads.  May be repeated."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.close()  # the other end can be read then; it may also have been closed by now
        with self._changed:
            for connection in self._open.values():
                _cut(connection)
            threads = self._threads.copy()
        deadline = time.monotonic() + _CLOSE_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="sluice-ingest", daemon=True)
        with self._changed:
            self._threads = [one for one in self._threads if one.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _accept(self) -> None:
        with self._listener, self._woken, selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closing.is_set():
                if any(key.fileobj is self._listener for key, _ in selector.select()):
                    with contextlib.suppress(OSError):  # the client may have gone again
                        connection, _ = self._listener.accept()
                        self.connections += 1
                        self._start(self._serve, connection, self.connections)

    def _serve(self, connection: socket.socket, number: int) -> None:
        """Read and answer requests on one connection until either side ends it."""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._register(number, connection)
            if self._tls is not None:
                connection.settimeout(_TLS_HANDSHAKE_TIMEOUT)
                connection = self._tls.wrap_socket(connection, server_side=True)
                connection.settimeout(None)
                self._register(number, connection)
            with connection.makefile("rb") as stream:
                while received := read(stream, connection, number):
                    if not self._respond(connection, received):
                        break
        except (OSError, ValueError):  # the client left, was cut, or does not speak HTTP
            pass
        finally:
            with self._changed:
                self._open.pop(number, None)
            connection.close()

    def _register(self, number: int, connection: socket.socket) -> None:
        with self._changed:
            self._open[number] = connection
        if self._closing.is_set():
            _cut(connection)

    def _respond(self, connection: socket.socket, received: Received) -> bool:
        """Decide, note and answer.  Says whether the connection lives on."""
        answer = received.answer = self._decide(received)
        with self._changed:
            self._requests.append(received)
            self._changes += 1
            self._changed.notify_all()
        if self._closing.wait(None if answer.fault == "hang" else answer.delay):
            return False
        if answer.fault == "reset":  # lingering for zero seconds makes close() send a RST
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if answer.fault in ("close", "reset"):
            return False
        head, body = written(answer)
        if answer.fault == "truncate":
            connection.sendall(head + body[: len(body) // 2])
            return False
        if answer.drip:
            for byte in head + body:
                connection.sendall(bytes((byte,)))
                if self._closing.wait(answer.drip):
                    return False
        else:
            connection.sendall(head + body)
        parting = {received.headers.get("connection", ""), answer.headers.get("Connection", "")}
        return "close" not in {word.lower() for word in parting}

    def _decide(self, received: Received) -> Answer:
        path = urlsplit(received.path).path
        if path == f"{_BASE}/health":
            return Answer(body=b'{"status":"ok"}')
        if path != f"{_BASE}/ingest":
            return refuse(404, "There is nothing here.")
        if received.method != "POST":
            return refuse(405, "Events are sent with POST.")
        key = received.headers.get("authorization", "")
        if self._api_key is not None and key != f"Bearer {self._api_key}":
            return refuse(401, "The API key is not valid.")
        answer = self.answer if isinstance(self.answer, Answer) else self.answer(received)
        return self._checked(received, answer) if answer.keeps and self._check else answer

    def _checked(self, received: Received, answer: Answer) -> Answer:
        """`answer` with the counts in it, or a refusal where the batch breaks the contract."""
        if len(received.body) > self._body_limit:
            return refuse(413, f"A body has at most {self._body_limit} bytes.")
        try:
            events = _decode_batch(received.body).events
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return refuse(400, str(error))
        if len(events) > self._events_limit:
            return refuse(413, f"A request has at most {self._events_limit} events.")
        ids: list[str | None] = []
        for event in events:
            subjects = [one for one in (event.job, event.worker, event.queue) if one is not None]
            if len(subjects) != 1:
                return refuse(400, "An event has exactly one of job, worker and queue.")
            ids.append(getattr(subjects[0], "extensions", {}).get("eventId"))
        if answer.body is not None:
            return answer
        with self._changed:
            accepted = 0
            for event_id in ids:
                accepted += event_id is None or event_id not in self._accepted_ids
                if event_id is not None:
                    self._accepted_ids.add(event_id)
        counts = {"accepted": accepted, "duplicates": len(ids) - accepted}
        return replace(answer, body=msgspec.json.encode(counts))


def _id_of(event: Mapping[str, Any]) -> str | None:
    subject = event.get("job") or event.get("worker") or event.get("queue") or {}
    event_id: str | None = subject.get("extensions", {}).get("eventId")
    return event_id


def _cut(connection: socket.socket) -> None:
    """Wake the thread that is blocked on a connection: it reads the end, or cannot write.

    The plain socket's method, because that of a TLS socket also drops the session that
    the other thread is using.
    """
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
