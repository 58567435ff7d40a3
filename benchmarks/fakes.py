"""A stand-in for Celery's `Request` that costs nothing itself."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from sluice.capture.hook import hooked
from sluice.capture.request import TaskObserver
from sluice.notices import Notices
from sluice.recorder import Recorder
from sluice.ring import Ring

CONNECTION = "6f1f64a7-6d5e-4f6e-9d0b-2f6f3c1f7a11"
TASK_ID = "45961a8c-1d54-41ed-af4e-8fc48b959485"


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


def observer_of(ring: Ring) -> TaskObserver:
    """Who writes down in `ring` what requests tell."""
    recorder = Recorder(CONNECTION, None, Notices(), lambda: None)
    recorder.ring = ring
    return TaskObserver(recorder, tracebacks=True)


def started(observer: TaskObserver) -> Any:
    """A request that was received and started."""
    request: Any = hooked(FakeRequest, observer)()
    observer.received(request)
    request.time_start = time.time()
    request.send_event("task-started")
    return request
