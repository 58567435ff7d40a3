"""What one event costs where it is captured, beside an encode and a copy of the same bytes."""

from __future__ import annotations

import itertools
import mmap
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from benchmarks.conftest import empty
from benchmarks.fakes import CONNECTION, started
from sluice.capture.request import TaskObserver
from sluice.events import encode_job
from sluice.ring import Ring

_ROUNDS, _A_ROUND = 200, 1000


@pytest.mark.benchmark(group="one event")
def test_build(benchmark: Any, observer: TaskObserver) -> None:
    """Celery's callback becomes an event object, which is not encoded."""
    request = started(observer)
    observer._recorder.job = lambda at, job: None  # type: ignore[misc]
    benchmark(observer.observe, request, "task-started", {})


@pytest.mark.benchmark(group="one event")
def test_encode(benchmark: Any, observer: TaskObserver) -> None:
    """The event object becomes JSON."""
    job, now = started(observer).sluice_job, time.time()
    benchmark(encode_job, CONNECTION, now, job)


@pytest.mark.benchmark(group="one event")
def test_encode_and_copy(benchmark: Any, observer: TaskObserver) -> None:
    """The baseline: the same JSON, copied into a buffer."""
    job, now = started(observer).sluice_job, time.time()
    buffer = bytearray(4096)

    def encode_and_copy() -> None:
        data = encode_job(CONNECTION, now, job)
        buffer[: len(data)] = data

    benchmark(encode_and_copy)


@pytest.mark.benchmark(group="one event")
def test_encode_and_append(benchmark: Any, observer: TaskObserver) -> None:
    """The same event through the recorder: encoded and written to the ring."""
    job, now = started(observer).sluice_job, time.time()
    benchmark(observer._recorder.job, now, job)


@pytest.mark.benchmark(group="one event")
def test_capture(benchmark: Any, observer: TaskObserver) -> None:
    """All of it: Celery calls `send_event`, and the event is in the ring."""
    benchmark(started(observer).send_event, "task-started")


@pytest.mark.benchmark(group="ring")
def test_copy(benchmark: Any, ring: Ring) -> None:
    """The baseline of an append: the same bytes, copied into memory that is as large, in turn."""
    memory, data = mmap.mmap(-1, ring.capacity), b"x" * 450
    places = itertools.cycle(range(0, len(memory) - len(data), len(data)))

    def copies() -> None:
        for place in itertools.islice(places, _A_ROUND):
            memory[place : place + len(data)] = data

    for _ in range(20):  # every page is there
        copies()
    _rounds(benchmark, copies)


@pytest.mark.benchmark(group="ring")
@pytest.mark.parametrize("state", ["empty", "full"])
def test_append(benchmark: Any, ring: Ring, state: str) -> None:
    """A prepared record of 450 bytes; into a full ring each overwrites one."""
    data = b"x" * 450

    def appends() -> None:
        for _ in range(_A_ROUND):
            ring.append(data)

    _in_state(benchmark, ring, appends, full=state == "full")


@pytest.mark.benchmark(group="state of the API")
@pytest.mark.parametrize("api", ["up", "down"])
def test_capture_with_the_api(benchmark: Any, observer: TaskObserver, ring: Ring, api: str) -> None:
    """While the API is down the ring is full, and each capture overwrites one."""
    send_event = started(observer).send_event

    def captures() -> None:
        for _ in range(_A_ROUND):
            send_event("task-started")

    _in_state(benchmark, ring, captures, full=api == "down")


def _in_state(benchmark: Any, ring: Ring, step: Callable[[], None], *, full: bool) -> None:
    if full:
        for _ in range(20):
            step()
    _rounds(benchmark, step, None if full else partial(empty, ring))


def _rounds(
    benchmark: Any, step: Callable[[], None], setup: Callable[[], None] | None = None
) -> None:
    """Rounds of a thousand each."""
    benchmark.extra_info["times"] = _A_ROUND
    benchmark.pedantic(step, setup=setup, rounds=_ROUNDS)
