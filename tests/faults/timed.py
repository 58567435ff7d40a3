"""The watched app with a task that says, by a datagram, how long after its sending it was done."""

import os
import socket
import struct
import time

from tests.faults.watched import app

_HERE = ("127.0.0.1", int(os.environ["TIMED_PORT"]))
_sockets: dict[int, socket.socket] = {}


@app.task(name="timed.note", ignore_result=True)
def note(label: int, sent: float) -> None:
    """Tell the label and the seconds since `sent`, of the machine's monotonic clock."""
    mine = _sockets.get(os.getpid())
    if mine is None:
        mine = _sockets[os.getpid()] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mine.sendto(struct.pack("!Id", label, time.monotonic() - sent), _HERE)
