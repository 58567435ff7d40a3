"""The Celery app of every variant: the same tasks, and at most one tool that watches them.

Start the worker with this folder as its working directory (``python -m celery -A app worker``),
so that neither the repository nor anything else in it can be imported.  :mod:`given` has the
variables.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

import given
import watching
from celery import Celery
from celery.signals import worker_ready

app = Celery("bench", broker=given.BROKER_URL)
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_ignore_result=True,
)
app.conf.update(given.CONF)
if given.STAMPS:
    app.Task = watching.Stamped

# Where people set such a tool up: behind the app, before the tasks.
if given.PEER:
    importlib.import_module(f"peer_{given.PEER}").set_up(app)


def _ready(**_: Any) -> None:
    if given.TICKS and given.POOL in watching.GREEN:
        watching.start_ticker()
    print("BENCH READY", file=sys.stderr, flush=True)


worker_ready.connect(_ready)


def _task(name: str) -> Callable[[Callable[..., None]], Any]:
    """Celery's decorator, which has no types, with types."""
    decorator: Callable[[Callable[..., None]], Any] = app.task(name=name)
    return decorator


@_task("bench.noop")
def noop(slot: int = -1) -> None:
    """Return at once: all that is left is what a task costs by itself."""


@_task("bench.sleep")
def sleep(seconds: float, slot: int = -1) -> None:
    """Wait, as a task does for a database or a service; a green sleep in a green pool."""
    time.sleep(seconds)


@_task("bench.cpu")
def cpu(seconds: float, slot: int = -1) -> None:
    """Use so many seconds of CPU: the thread's own, however long the clock says it took."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        for _ in range(100):
            pass


@_task("bench.fail")
def fail(depth: int, slot: int = -1) -> None:
    """Raise under so many frames."""
    _descend(depth)


@_task("bench.fan_out")
def fan_out(tasks: int, slot: int = -1) -> None:
    """Send so many no-ops."""
    for _ in range(tasks):
        noop.delay()


# Two functions, because a traceback is printed in short where one calls itself.
def _descend(depth: int) -> None:
    if depth <= 1:
        raise ValueError("the bottom of bench.fail")
    _descend_further(depth - 1)


def _descend_further(depth: int) -> None:
    if depth <= 1:
        raise ValueError("the bottom of bench.fail")
    _descend(depth - 1)
