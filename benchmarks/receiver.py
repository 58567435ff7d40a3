"""What a peer delivers to: an HTTP server that keeps what comes and reads it when it is asked.

    python -m benchmarks.receiver [--celery-events URL | --stream URL]

One process for each worker that is measured, and not one for all: a variant that floods its
receiver cannot make another's wait, a state such as a black hole is one variant's alone, what
came needs no telling apart, and the CPU that receiving took is that of one process.  Those that
have no turn sleep in the kernel.

It prints ``{"url": ..., "control": ...}`` in one line when it listens, and ends when its standard
input does.  `url` is what peers deliver to, whatever path they add.  `control` is another port,
so that it works whatever state the first is in:

========================  =======================================================================
``/_bench/totals``        requests, bytes and connections so far; reads nothing, costs nothing
``/_bench/counts``        the same, and what was told, decoded now: ask when it has gone quiet
``/_bench/reset``         forget all of it
``/_bench/state/NAME``    become ``up``, ``slow``, ``errors`` or ``black-hole``
========================  =======================================================================

Rules it keeps
--------------
* While it receives it looks for the end of the head and for Content-Length, and at nothing else.
* An answer says 200 only for what is kept; what is refused is counted as refused and forgotten.
* In a black hole nothing is read and no connection is taken: the queue of the listener is full,
  and the kernel drops every SYN.  When it ends, all connections from before are closed, which
  resets those that had sent something, and what they had sent is lost: nothing was delivered.
* Content-Length only: no peer sends chunks, and one that would is refused with 411 and counted.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from benchmarks.listening import SOURCES, Source
from benchmarks.protocols import Tally, inflated, of_path
from benchmarks.serving import BACKLOG, HOST, Connection, Server, answer

STATES: Final = ("up", "slow", "errors", "black-hole")
#: Seconds until an answer in the state "slow".
SLOWNESS: Final = 0.05

_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_ENCODING: Final = re.compile(rb"\r\ncontent-encoding:[ \t]*([^\r]*)", re.IGNORECASE)
_OK: Final = answer("200 OK")
_ERROR: Final = answer("500 Internal Server Error")
_NO_LENGTH: Final = answer("411 Length Required", more=b"Connection: close\r\n")


class Receiver(Server):
    """The two ports and what came in; `run` serves until its descriptor has something to read."""

    def __init__(self, source: Source | None = None) -> None:
        super().__init__()
        self.state = "up"
        self._source = source
        self._listener = socket.create_server((HOST, 0), backlog=BACKLOG)
        self._control = socket.create_server((HOST, 0), backlog=BACKLOG)
        self._listen(self._listener, self._take)
        self._listen(self._control, self._instruct)
        if source is not None:
            self._watch(source.socket, self._hear)
        #: Local connections that keep the listener's queue full.
        self._plugs: list[socket.socket] = []
        #: Answers that wait: when, to whom.
        self._late: deque[tuple[float, Connection]] = deque()
        self._asked = 0.0
        self._reset()

    def __repr__(self) -> str:
        return f"<Receiver {self.url} {self.state}, {self._requests} requests>"

    @property
    def url(self) -> str:
        """What peers deliver to."""
        return f"http://{HOST}:{self._listener.getsockname()[1]}"

    @property
    def control(self) -> str:
        """Where it is asked and told."""
        return f"http://{HOST}:{self._control.getsockname()[1]}"

    def close(self) -> None:
        """Let go of all sockets."""
        super().close()
        for one in (self._listener, self._control, *self._plugs):
            one.close()
        if self._source is not None:
            self._source.socket.close()

    def _due(self) -> float:
        pause = -1.0
        if self._late:
            self._answer_late()
        if self._source is not None and self._source.interval is not None:
            pause = self._asked + self._source.interval - time.monotonic()
            if pause <= 0:
                self._source.ask()
                self._asked = time.monotonic()
                pause = self._source.interval
        if self._late:
            due = max(0.0, self._late[0][0] - time.monotonic())
            pause = due if pause < 0 else min(pause, due)
        return pause

    def _accept(
        self, listener: socket.socket, take: Callable[[Connection, bytes, int], None]
    ) -> bool:
        taken = super()._accept(listener, take)
        self._connections += taken and listener is self._listener
        return taken

    # --- what peers deliver ---------------------------------------------------------------------

    def _take(self, connection: Connection, request: bytes, head: int) -> None:
        if head == len(request) and _CHUNKED.search(request):
            self._refused += 1
            self._send(connection, _NO_LENGTH)
            self._close(connection)
            return
        if self.state == "errors":
            self._refused += 1
            self._send(connection, _ERROR)
            return
        self._requests += 1
        self._bytes += len(request)
        self._body_bytes += len(request) - head
        self._kept.append((head, request))
        if self.state == "slow":
            self._late.append((time.monotonic() + SLOWNESS, connection))
        else:
            self._send(connection, _OK)

    def _answer_late(self) -> None:
        now = time.monotonic()
        while self._late and self._late[0][0] <= now:
            _, connection = self._late.popleft()
            if connection.socket.fileno() >= 0:
                self._send(connection, _OK)

    def _hear(self) -> None:
        assert self._source is not None
        if not self._source.read():
            self._forget(self._source.socket)

    # --- control --------------------------------------------------------------------------------

    def _instruct(self, connection: Connection, request: bytes, head: int) -> None:
        path = request.split(b" ", 2)[1].decode()
        known = True
        if path == "/_bench/reset":
            self._reset()
        elif path.startswith("/_bench/state/"):
            known = self._become(path.rpartition("/")[2])
        else:
            known = path in {"/_bench/totals", "/_bench/counts"}
        told = self._totals() | (self._counts() if path == "/_bench/counts" else {})
        status = "200 OK" if known else "404 Not Found"
        self._send(connection, answer(status, json.dumps(told).encode()))

    def _reset(self) -> None:
        self._requests = self._refused = self._connections = 0
        #: Bytes of requests that were kept: whole, and their bodies alone.
        self._bytes = self._body_bytes = 0
        self._kept: list[tuple[int, bytes]] = []
        self._tally = Tally()
        if self._source is not None:
            self._source.drop()

    def _totals(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "requests": self._requests,
            "refused": self._refused,
            "bytes": self._bytes + (self._source.bytes if self._source else 0),
            "body_bytes": self._body_bytes,
            "connections": self._connections,
        }

    def _counts(self) -> dict[str, Any]:
        if self._source is not None:
            self._source.tell(self._tally)
        kept, self._kept = self._kept, []
        for head, request in kept:
            encoding = _ENCODING.search(request, 0, head)
            try:
                decode = of_path(request.split(b" ", 2)[1].decode())
                body = inflated(request[head:], encoding[1].decode() if encoding else "")
            except (ValueError, OSError) as error:
                self._tally.unreadable(error)
            else:
                self._tally.add(decode, body)
        return self._tally.counts()

    # --- states ---------------------------------------------------------------------------------

    def _become(self, state: str) -> bool:
        if state not in STATES:
            return False
        if state != self.state:
            if self.state == "black-hole":
                self._unplug()
            elif state == "black-hole":
                self._plug()
            self.state = state
        return True

    def _delivering(self) -> list[Connection]:
        return [one for one in self._clients.values() if one.take == self._take]

    def _plug(self) -> None:
        self._late.clear()
        self._forget(self._listener)
        for connection in self._delivering():
            self._forget(connection.socket)
        while True:  # who waits in the queue has a connection already, and hears nothing on it
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            client.setblocking(False)
            self._clients[client.fileno()] = Connection(client, self._take)
        # One more than the backlog waits in the queue; the SYNs of the others are dropped.
        self._listener.listen(0)
        for _ in range(4):
            plug = socket.socket()
            plug.setblocking(False)
            plug.connect_ex(self._listener.getsockname())
            self._plugs.append(plug)

    def _unplug(self) -> None:
        for connection in self._delivering():
            self._clients.pop(connection.socket.fileno(), None)
            connection.socket.close()
        for plug in self._plugs:
            plug.close()
        self._plugs.clear()
        self._listener.listen(BACKLOG)
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            client.close()
        self._listen(self._listener, self._take)


def main() -> None:
    """Listen, say where, and serve until standard input ends."""
    parser = argparse.ArgumentParser(description="What a peer delivers to.")
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument("--celery-events", metavar="URL", help="hear Celery's events there")
    sources.add_argument("--stream", metavar="URL", help="read stemtrace's stream there")
    given = parser.parse_args()
    source = None
    if given.celery_events:
        source = SOURCES["celery events"](given.celery_events)
    elif given.stream:
        source = SOURCES["stream"](given.stream)
    receiver = Receiver(source)
    # All that is kept is bytes in tuples: there are no cycles to look for, and a collection
    # over a million objects is a pause in the middle of somebody's measurement.
    gc.disable()
    print(json.dumps({"url": receiver.url, "control": receiver.control}), flush=True)
    receiver.run(sys.stdin.fileno())
    receiver.close()
    os._exit(0)  # nobody waits until gigabytes are given back one by one


if __name__ == "__main__":
    main()
