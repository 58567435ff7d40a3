"""Ports that nobody else takes: from a share that belongs to this run of the tests alone."""

import contextlib
import fcntl
import functools
import itertools
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

HOST = "127.0.0.1"
_FIRST_PORT, _SHARES, _SHARE = 20_000, 60, 200


def _own_ports() -> range:
    """A share of the ports that no other run of the tests on this machine has at the same time.

    RabbitMQ takes its ports some seconds after they were chosen, and nobody must have them by then.
    The lock goes with this process.
    """
    for turn in range(_SHARES):
        number = (os.getpid() + turn) % _SHARES
        lock = Path(tempfile.gettempdir()) / f"sluice-tests-{os.getuid()}-ports-{number}"
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        first = _FIRST_PORT + number * _SHARE
        return range(first, first + _SHARE)
    msg = f"{_SHARES} other runs of the tests have all ports from {_FIRST_PORT}"
    raise OSError(msg)


@functools.cache
def _ports() -> Iterator[int]:
    return itertools.cycle(_own_ports())


def free_port() -> int:
    """A TCP port that nobody listens on, below the usual range of outgoing connections."""
    for port in itertools.islice(_ports(), _SHARE):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    msg = f"none of the {_SHARE} ports of this run is free"
    raise OSError(msg)
