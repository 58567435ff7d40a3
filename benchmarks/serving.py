"""HTTP/1.1 with keep-alive, as little of it as a receiver needs: a loop written by hand.

It looks for the end of a request's head and for its Content-Length, and at nothing else.
"""

from __future__ import annotations

import re
import select
import socket
from collections.abc import Callable
from typing import Final

HOST: Final = "127.0.0.1"
BACKLOG: Final = 1024

_CHUNK: Final = 1 << 18
_READ: Final = select.EPOLLIN
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


def answer(status: str, body: bytes = b"{}", more: bytes = b"") -> bytes:
    """A whole answer in JSON; `more` is further lines of its head."""
    kind = b"Content-Type: application/json\r\n"
    head = b"HTTP/1.1 %b\r\n%b%bContent-Length: %d\r\n\r\n"
    return head % (status.encode(), kind, more, len(body)) + body


class Connection:
    """A client, and what it has sent of a request."""

    __slots__ = ("head", "need", "pending", "socket", "take")

    def __init__(
        self, socket: socket.socket, take: Callable[[Connection, bytes, int], None]
    ) -> None:
        self.socket = socket
        #: Called with each whole request and the length of its head.
        self.take = take
        self.pending = bytearray()
        #: The lengths of the request that is coming and of its head; 0 where not known yet.
        self.need = 0
        self.head = 0


class Server:
    """Listeners, their connections and the loop; what a request means is a subclass's business."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._clients: dict[int, Connection] = {}
        self._stopped = False

    def run(self, stop: int) -> None:
        """Serve until the file descriptor `stop` has something to read, or its end."""
        self._poll.register(stop, _READ)
        self._handlers[stop] = self._stop
        handlers, poll = self._handlers, self._poll.poll
        while not self._stopped:
            for number, _ in poll(self._due()):
                # One that was closed by another's turn in this round is not there any more.
                if handler := handlers.get(number):
                    handler()

    def close(self) -> None:
        """Let go of all connections."""
        for connection in self._clients.values():
            connection.socket.close()
        self._poll.close()

    def _stop(self) -> None:
        self._stopped = True

    def _due(self) -> float:
        """Do what is due, and tell in how many seconds something will be; -1 for never."""
        return -1.0

    def _listen(
        self, listener: socket.socket, take: Callable[[Connection, bytes, int], None]
    ) -> None:
        listener.setblocking(False)
        self._watch(listener, lambda: self._accept(listener, take))

    def _watch(self, one: socket.socket, handler: Callable[[], object]) -> None:
        self._handlers[one.fileno()] = handler
        self._poll.register(one.fileno(), _READ)

    def _forget(self, one: socket.socket) -> None:
        self._handlers.pop(one.fileno(), None)
        try:
            self._poll.unregister(one.fileno())
        except (OSError, ValueError):  # it was not watched
            pass

    def _accept(
        self, listener: socket.socket, take: Callable[[Connection, bytes, int], None]
    ) -> bool:
        """Take a connection; False where the client has gone again."""
        try:
            client, _ = listener.accept()
        except OSError:
            return False
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(client, take)
        self._clients[client.fileno()] = connection
        self._watch(client, lambda: self._read(connection))
        return True

    def _close(self, connection: Connection) -> None:
        self._forget(connection.socket)
        self._clients.pop(connection.socket.fileno(), None)
        connection.socket.close()

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
            return
        pending = connection.pending
        pending += data
        while pending:
            if not connection.need:
                end = pending.find(b"\r\n\r\n")
                if end < 0:
                    return
                found = _LENGTH.search(pending, 0, end)
                connection.head = end + 4
                connection.need = end + 4 + (int(found[1]) if found else 0)
            if len(pending) < connection.need:
                return
            if len(pending) == connection.need:  # nearly always, and a copy less
                request = bytes(pending)
                pending.clear()
            else:
                request = bytes(pending[: connection.need])
                del pending[: connection.need]
            connection.need = 0
            connection.take(connection, request, connection.head)

    def _send(self, connection: Connection, whole: bytes) -> None:
        """An answer fits into the socket's buffer, unless its client does not read them."""
        try:
            sent = connection.socket.send(whole)
        except OSError:
            sent = 0
        if sent < len(whole):
            self._close(connection)
