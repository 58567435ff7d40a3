"""What tools put on the broker, read by the receiver: kept raw, read when it is asked for.

Two of the variants deliver nothing by HTTP: Celery's own events are published to whoever
listens, and stemtrace appends to a stream.  A source is a connection to the broker that keeps
what comes.  Only Redis's protocol: Valkey is the broker of the benchmarks.
"""

from __future__ import annotations

import socket
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.protocols import Tally, celery_events, stemtrace
from benchmarks.resp import ReplyError, command, replies

_CHUNK: Final = 1 << 20
_GROUP: Final = "bench"
_NOTHING_NEW: Final = b"*-1\r\n"
_AT_ONCE: Final = 10_000
#: What our connection is called in the broker's list of clients, which tells it from the worker's.
RECEIVER: Final = "bench-receiver"


class Source:
    """A connection to the broker, and the bytes that came through it."""

    #: Seconds between two calls of :meth:`ask`; None where the server speaks unasked.
    interval: float | None = None

    def __init__(self, broker_url: str) -> None:
        url = urlsplit(broker_url)
        self.database = int(url.path.strip("/") or 0)
        self.socket = socket.create_connection((url.hostname or "127.0.0.1", url.port or 6379))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._chunks: list[bytes] = []
        #: Bytes that came, of replies with something in them.
        self.bytes = 0
        self._call("CLIENT", "SETNAME", RECEIVER)
        self._call("SELECT", self.database)
        self._subscribe()
        self.socket.setblocking(False)

    def _call(self, *words: str | int) -> None:
        """A command of the beginning, and its answer.  Raises :class:`ReplyError`."""
        self.socket.sendall(command(*words))
        answer = b""
        while not replies(answer)[0]:
            if not (part := self.socket.recv(4096)):
                raise ConnectionError("the broker ended the connection")
            answer += part
        (first, *_), rest = replies(answer)
        if isinstance(first, ReplyError):
            raise first
        self._chunks = [rest] if rest else []

    def _subscribe(self) -> None:
        raise NotImplementedError

    def ask(self) -> None:
        """Ask the server for what is new."""

    def read(self) -> bool:
        """Keep what came.  False where the server has gone."""
        try:
            chunk = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if chunk and chunk != _NOTHING_NEW:
            self.bytes += len(chunk)
            self._chunks.append(chunk)
        return bool(chunk)

    def tell(self, tally: Tally) -> None:
        """Count what came since the last call, and let go of it."""
        complete, rest = replies(b"".join(self._chunks))
        self._chunks = [rest] if rest else []
        for reply in complete:
            if isinstance(reply, ReplyError):
                tally.unreadable(reply)
            elif reply:
                self._tell(reply, tally)

    def _tell(self, reply: list[Any], tally: Tally) -> None:
        raise NotImplementedError

    def drop(self) -> None:
        """Forget what came since the last count."""
        _, rest = replies(b"".join(self._chunks))
        self._chunks = [rest] if rest else []
        self.bytes = 0


class CeleryEvents(Source):
    """Celery's event exchange, which kombu makes a channel of Redis's publish and subscribe."""

    def _subscribe(self) -> None:
        # With the routing key behind it, or without: kombu's `fanout_patterns` decides.
        self._call("PSUBSCRIBE", f"/{self.database}.celeryev*")

    def _tell(self, reply: list[Any], tally: Tally) -> None:
        if reply[0] == b"pmessage":
            tally.add(celery_events, reply[3])


class Stemtrace(Source):
    """stemtrace's stream: through a group, so that the server knows what we have had.

    Asked ten times a second, where stemtrace's own dashboard is woken by each entry: what the
    reader costs the broker is as little as it can be.
    """

    interval = 0.1
    _stream = "stemtrace:events"

    def _subscribe(self) -> None:
        self._call("XGROUP", "CREATE", self._stream, _GROUP, "0", "MKSTREAM")

    def ask(self) -> None:
        words = ("XREADGROUP", "GROUP", _GROUP, _GROUP, "COUNT", _AT_ONCE, "NOACK")
        try:
            self.socket.send(command(*words, "STREAMS", self._stream, ">"))
        except OSError:
            return  # the next read says that the server has gone

    def _tell(self, reply: list[Any], tally: Tally) -> None:
        for _, entries in reply:
            for _, pairs in entries:
                tally.add(stemtrace, pairs[pairs.index(b"data") + 1])


SOURCES: Final[dict[str, type[Source]]] = {"celery events": CeleryEvents, "stream": Stemtrace}
