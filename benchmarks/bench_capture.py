"""What one event costs where it is captured: beside an encode and a copy of the same bytes."""

from __future__ import annotations

import mmap
import time
from types import SimpleNamespace
from typing import Any

import pytest

from sluice import batch
from sluice.capture.request import RequestHook, TaskObserver, hooked
from sluice.events import encode_job
from sluice.notices import Notices
from sluice.recorder import Recorder
from sluice.ring import Reader, Ring

TASK_ID = "45961a8c-1d54-41ed-af4e-8fc48b959485"
CONNECTION = "6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11"


class FakeRequest:
    """What the hook reads of Celery's `Request`, and nothing that costs."""

    def __init__(self) -> None:
        self.id = self.root_id = TASK_ID
        self.name = "orders.charge"
        self.hostname = "celery@worker-1"
        self.parent_id = self.eta = self.time_start = None
        self.worker_pid = 4242
        self.task = SimpleNamespace(max_retries=3)
        self.request_dict = {"retries": 0}
        self.delivery_info = {"exchange": "", "routing_key": "celery", "redelivered": False}

    def send_event(self, celery_event: str, **fields: Any) -> None:
        """Celery's own: it does nothing without an enabled dispatcher."""


@pytest.fixture
def ring() -> Ring:
    """A ring like a worker's, used once around: its pages are there."""
    ring = Ring(mmap.mmap(-1, 8 << 20), ring_id=3)
    reader = Reader(ring)
    for _ in range(20_000):
        ring.append(b"x" * 450)
    while records := reader.read(500, 1 << 20):
        reader.settle(records[-1])
    return ring


@pytest.fixture
def observer(ring: Ring) -> TaskObserver:
    recorder = Recorder(CONNECTION, None, Notices(), lambda: None)
    recorder.ring = ring
    return TaskObserver(recorder, tracebacks=True)


def one_event(observer: TaskObserver) -> tuple[Any, bytes]:
    """A started request, and the bytes of its last event."""
    request = hooked(FakeRequest, observer)()
    observer.received(request)
    request.time_start = time.time()
    request.send_event("task-started")
    assert isinstance(request, RequestHook)
    return request, encode_job(CONNECTION, time.time(), request.sluice_job)


@pytest.mark.benchmark(group="one event")
def test_encode_and_copy(benchmark: Any, observer: TaskObserver) -> None:
    """The baseline: msgspec's encoding of the event, copied into a buffer."""
    request, payload = one_event(observer)
    buffer = bytearray(len(payload) + 64)
    job, now = request.sluice_job, time.time()

    def encode_and_copy() -> None:
        data = encode_job(CONNECTION, now, job)
        buffer[: len(data)] = data

    benchmark(encode_and_copy)


@pytest.mark.benchmark(group="one event")
def test_encode_and_append(benchmark: Any, observer: TaskObserver) -> None:
    """The same event through the recorder: encoded and written to the ring."""
    request, _ = one_event(observer)
    job, now = request.sluice_job, time.time()
    benchmark(observer._recorder.job, now, job)


@pytest.mark.benchmark(group="one event")
def test_capture(benchmark: Any, observer: TaskObserver) -> None:
    """All of it: Celery calls `send_event`, and the event is in the ring."""
    request, _ = one_event(observer)
    benchmark(request.send_event, "task-started")


@pytest.mark.benchmark(group="ring")
def test_append(benchmark: Any, ring: Ring) -> None:
    """One prepared record of 450 bytes."""
    benchmark(ring.append, b"x" * 450)


@pytest.mark.benchmark(group="ring")
def test_read_join_and_settle_500(benchmark: Any, observer: TaskObserver, ring: Ring) -> None:
    """What the sender does with a full batch, apart from the request."""
    _, payload = one_event(observer)
    reader = Reader(ring)

    def fill() -> None:
        for _ in range(500):
            ring.append(payload)

    def drain() -> None:
        while records := reader.read(500, 1 << 20):
            batch.body(records, ring.ring_id)
            reader.settle(records[-1])

    drain()
    benchmark.pedantic(drain, setup=fill, rounds=200)
