"""What a worker writes down about its tasks and its event loop, where latency is measured.

Both go to mapped files of 8-byte floats, which the harness has made and reads: a few memory writes,
the same in every variant.
"""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path
from typing import Any

import given
from celery import Task

GREEN = ("gevent", "eventlet")
#: Seconds that the ticker sleeps.
TICK = 0.001

_PLACE = struct.Struct("<d")


def _mapped(path: str) -> mmap.mmap:
    with Path(path).open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


_stamps = _mapped(given.STAMPS) if given.STAMPS else None


def _stamp(kwargs: dict[str, Any], which: int) -> None:
    if _stamps is not None and (slot := kwargs.get("slot", -1)) >= 0:
        _PLACE.pack_into(_stamps, (2 * slot + which) * _PLACE.size, time.monotonic())


class Stamped(Task):  # type: ignore[misc]
    """Writes down when a task starts and has ended, at the place that it was given."""

    def before_start(self, task_id: str, args: Any, kwargs: dict[str, Any]) -> None:
        """Celery's callback, behind the signal `task_prerun`."""
        _stamp(kwargs, 0)

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Celery's callback, behind the result and the signals of success and failure."""
        _stamp(kwargs, 1)


def start_ticker() -> None:
    """A greenlet that sleeps again and again, and writes down by how many seconds it woke late."""
    if given.POOL == "gevent":
        from gevent import sleep, spawn
    else:
        from eventlet import sleep, spawn
    log = _mapped(given.TICKS)

    def tick() -> None:
        for place in range(1, len(log) // _PLACE.size):
            before = time.monotonic()
            sleep(TICK)
            _PLACE.pack_into(log, place * _PLACE.size, time.monotonic() - before - TICK)
            _PLACE.pack_into(log, 0, float(place))

    spawn(tick)
