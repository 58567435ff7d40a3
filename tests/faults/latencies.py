"""How long tasks took, told by the tasks themselves, in datagrams of a few bytes."""

import socket
import struct
import threading
from collections import defaultdict

_MESSAGE = struct.Struct("!Id")


class Latencies:
    """Hears what `tests.faults.timed` tells: the seconds of each task, by its label."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.told: defaultdict[int, list[float]] = defaultdict(list)
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()

    def _hear(self) -> None:
        while data := self._socket.recv(64):
            label, seconds = _MESSAGE.unpack(data)
            self.told[label].append(seconds)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()
