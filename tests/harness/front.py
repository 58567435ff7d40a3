"""A port in front of a server, which may be a proxy, and whose connections go wrong on demand."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterator

from tests.harness.ports import HOST, free_port


class Front:
    """A port of this machine that passes connections on to another, or does something worse.

    With `answer` it is a proxy: it reads a CONNECT, and passes the connection on only where
    `answer` says 200. Each trouble is a context manager, after which all is well again.
    """

    def __init__(self, target: int, *, answer: bytes = b"") -> None:
        self.port = free_port()
        self.target = target
        self.answer = answer
        #: What a proxy was asked, with its headers.
        self.heads: list[bytes] = []
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._threads: list[threading.Thread] = []
        self.listen()

    def listen(self) -> None:
        """Pass connections on."""
        self._listener = socket.create_server((HOST, self.port), backlog=128)
        self._begin(self._accept, self._listener)

    def close(self) -> None:
        """Cut all connections and let go of the port: who comes now is refused."""
        listener, self._listener = self._listener, None
        for one in (listener, *self._open):
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._threads.clear()
        for one in (listener, *self._open):
            if one is not None:
                one.close()
        self._open.clear()

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """Nobody listens."""
        self.close()
        yield
        self.listen()

    @contextlib.contextmanager
    def black_hole(self) -> Iterator[None]:
        """The kernel drops every SYN: the queue of a listener that accepts nothing is full."""
        self.close()
        with contextlib.ExitStack() as sockets:
            server = sockets.enter_context(socket.create_server((HOST, self.port), backlog=0))
            for _ in range(4):
                waiting = sockets.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(server.getsockname())
            with socket.socket() as probe, contextlib.suppress(TimeoutError):
                probe.settimeout(0.3)
                probe.connect(server.getsockname())
                raise AssertionError("the kernel answers: this is no black hole")
            yield
        self.listen()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Connections are accepted, and nothing is ever said: the handshake of TLS hangs."""
        self.close()
        with socket.create_server((HOST, self.port), backlog=128):
            yield
        self.listen()

    def _begin(self, target, *args) -> None:
        thread = threading.Thread(target=target, args=args, name="front", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                self._open.append(client)
                self._begin(self._pass_on, client)

    def _pass_on(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self.answer:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    if not (byte := client.recv(1)):
                        return
                    head += byte
                self.heads.append(head)
                client.sendall(b"HTTP/1.1 " + self.answer + b"\r\n\r\n")
                if not self.answer.startswith(b"200"):
                    client.shutdown(socket.SHUT_RDWR)
                    return
            server = socket.create_connection((HOST, self.target))
            self._open.append(server)
            with selectors.DefaultSelector() as selector:
                selector.register(client, selectors.EVENT_READ, server)
                selector.register(server, selectors.EVENT_READ, client)
                while True:
                    for key, _ in selector.select():
                        data = key.fileobj.recv(65536)
                        if not data:
                            key.data.shutdown(socket.SHUT_RDWR)
                            return
                        key.data.sendall(data)
