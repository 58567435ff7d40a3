"""The sender's one connection at a time, as `requests` uses it: answers in time, and forks.

Guarantees
----------
* An answer is there, whole, within the timeout that its socket has when it begins.
* A process that is forked beside the sender, at any moment, does not use the connection, comes
  to its end, and closes no descriptor but its own.
* However often a connection is made, the certificates that it trusts are read and kept once.

What the second relies on (tests: ``tests/test_fork.py``)
---------------------------------------------------------
* urllib3 2 empties a pool's queue of connections and closes them when a process ends, by a
  finalizer, in a child too.  The queue's lock may be held by a sender that the child does not
  have, so this queue has none: only the sender's thread ever uses it.
* That finalizer closes the number of a socket whoever has it by then, so the child keeps the
  number: it becomes a second descriptor of ``/dev/null``, until the finalizer closes it.
"""

from __future__ import annotations

import errno
import io
import os
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, Final, Self

from sluice.descriptors import identify

#: Bytes of one header of a hint.
_LONGEST_LINE: Final = 65536


class _Trust:
    """One TLS context for all connections that trust the same certificates.

    urllib3 makes one for each connection: with certifi's that is more than 1 MiB, and memory that
    does not come back soon.  Forty tries of an API whose certificate was not accepted took 10.
    """

    def __init__(self, make_context: Callable[[], Any]) -> None:
        self._make_context = make_context
        self._known: tuple[object, Any] = (None, None)

    def context(self, bundle: str) -> Any:
        """That of the certificates in this file, as it is now."""
        state = Path(bundle).stat()
        now = bundle, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns
        known, context = self._known
        if known != now:
            context = self._make_context()
            context.load_verify_locations(bundle)
            self._known = now, context
        return context


def _trusted_file(connection: Any) -> str | None:
    """The file of certificates that a connection trusts, and nothing else does beside it.

    A proxy that speaks TLS itself is asked for its certificate by the same setting.
    """
    proxy = getattr(connection, "proxy", None)
    if proxy is not None and proxy.scheme == "https":
        return None
    return getattr(connection, "ca_certs", None)


class Sockets:
    """The descriptors of the connections that were made."""

    def __init__(self) -> None:
        #: What each was, and the connection that has it.
        self._known: Final[dict[int, tuple[tuple[int, int] | None, Any]]] = {}

    def remember(self, descriptor: int, connection: Any) -> None:
        """This one is that of a connection of the sender's."""
        self._known[descriptor] = identify(descriptor), connection

    def disown(self) -> None:
        """Forget those that somebody has closed under our feet, as a daemon does.

        Their numbers belong to who got them next, for whom neither a request with the key in it
        nor a `close` is meant.
        """
        for descriptor, (identity, connection) in list(self._known.items()):
            if identify(descriptor) != identity:
                del self._known[descriptor]
                socket = connection.sock
                if socket is not None and socket.fileno() == descriptor:
                    connection.sock = None
                    socket.detach()

    def let_go(self) -> None:
        """In a child that was forked beside the sender: close its connections, quietly.

        By their numbers alone, and only where they are still what they were: the objects belong
        to a thread that does not exist here, and a TLS connection closed properly would be
        closed for the parent too.
        """
        for descriptor, (identity, _) in self._known.items():
            if identify(descriptor) == identity:
                with suppress(OSError):
                    _become_nothing(descriptor)


def _become_nothing(descriptor: int) -> None:
    try:
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # no descriptor is left: then the number has to go
        os.close(descriptor)
        return
    os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _in_time(response_class: Any) -> Any:
    """The class of an answer that is there, whole, within its time."""

    class Response(response_class):  # type: ignore[misc]
        fp: Any

        def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self.fp = io.BufferedReader(_WithinTime(self.fp.detach(), sock))

        def _read_status(self) -> Any:
            """Read on over hints (103) that a proxy sends ahead; `http.client` knows 100."""
            version, status, reason = super()._read_status()
            while 102 <= status < 200:
                while self.fp.readline(_LONGEST_LINE).strip():
                    pass
                version, status, reason = super()._read_status()
            return version, status, reason

    return Response


def _connection(connection_class: Any, sockets: Sockets) -> Any:
    """The class of our connections, from that of urllib3's."""
    # As urllib3 makes them for this class: its own function, of its own copy in the island.
    trust = _Trust(connection_class.connect.__globals__["create_urllib3_context"])

    class Connection(connection_class):  # type: ignore[misc]
        response_class = _in_time(connection_class.response_class)
        debuglevel = 0  # whoever raises it for all would have our headers printed
        _trusted: str | None = None

        def set_debuglevel(self, level: int) -> None:
            """It stays 0: the headers have the key in them."""

        def connect(self) -> Any:
            self._trusted = self._trusted or _trusted_file(self)
            if self._trusted is not None:
                self.ssl_context = trust.context(self._trusted)
                self.ca_certs = None
            return super().connect()

        def _new_conn(self) -> Any:
            socket = super()._new_conn()
            sockets.remember(socket.fileno(), self)
            return socket

    return Connection


def adapter(requests: Any, sockets: Sockets) -> Any:
    """An adapter of `requests` for one connection at a time; `sockets` hears of each."""

    def ours(pool_class: Any) -> Any:
        class Queue(pool_class.QueueCls):  # type: ignore[misc]
            def __init__(self, maxsize: int = 0) -> None:
                super().__init__(maxsize)
                self.mutex = self.not_empty = self.not_full = self.all_tasks_done = _NoLock()

        connection_class = _connection(pool_class.ConnectionCls, sockets)
        attributes = {"ConnectionCls": connection_class, "QueueCls": Queue}
        return type(pool_class.__name__, (pool_class,), attributes)

    class Adapter(requests.adapters.HTTPAdapter):  # type: ignore[misc]
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            make_ours(self.poolmanager)

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            return make_ours(super().proxy_manager_for(*args, **kwargs))

    def make_ours(manager: Any) -> Any:
        if "sluice" not in vars(manager):
            manager.sluice = True
            classes = manager.pool_classes_by_scheme
            manager.pool_classes_by_scheme = {s: ours(c) for s, c in classes.items()}
        return manager

    return Adapter(pool_connections=1, pool_maxsize=1, max_retries=0)


class _NoLock:
    """In place of the conditions of a queue that one thread uses and nobody waits for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def notify(self) -> None:
        """Nobody waits."""


class _WithinTime(io.RawIOBase):
    """What comes from a socket, all of it within its timeout.

    The socket itself grants that time to every part: an answer of one byte a second would
    take minutes, and all events wait.
    """

    def __init__(self, raw: Any, sock: Any) -> None:
        self._raw = raw
        self._sock = sock
        limit = sock.gettimeout()
        self._until = inf if limit is None else time.monotonic() + limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        if left < inf:
            self._sock.settimeout(left)
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()
