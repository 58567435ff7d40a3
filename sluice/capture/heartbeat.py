"""The worker itself as events: online, busy or idle every two seconds, offline.

The sender's thread asks for a heartbeat at every turn, and its helper while a request takes its
time.  They run there and not on a timer of Celery's because that one stands still while the
worker waits for a lost broker, or while a `solo` worker runs a task.  So this only reads: a few
lengths and numbers of Celery's state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Final

from celery import __version__ as celery_version
from celery.worker import state as worker_state

from sluice._version import __version__
from sluice.events import ID_LIMIT, QUEUE_LIMIT, Scalar, Worker, WorkerState, attempt_number, cut
from sluice.lifesign import MOST_TASKS, ActiveTask, LifeSign, encode_sign
from sluice.recorder import Recorder

#: Seconds.  A receiver takes a worker for offline after three of these.
INTERVAL: Final = 2.0
#: Names that are sent of a worker's queues.
_MOST_QUEUES: Final = 100


class Heartbeat:
    """Reports one worker, a `celery.apps.worker.Worker`, running a pool of this kind.

    `keep_sign` gets its sign of life, and None when it has ended properly.
    """

    def __init__(
        self,
        recorder: Recorder,
        worker: Any,
        pool: str,
        *,
        keep_sign: Callable[[bytes | None], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._recorder = recorder
        self._worker = worker
        # Found here, in MAIN: kombu's lock around `app.amqp` is a green one in a green process,
        # and may not be taken by the sender's thread.
        self._queues = worker.app.amqp.queues
        self._pool = pool
        self._keep_sign = keep_sign
        self._clock = clock
        self._monotonic = monotonic
        self._due = float("inf")
        self._over = False
        self._pid = os.getpid()

    def online(self) -> None:
        """The worker has started; heartbeats follow."""
        self._report("online", "worker-online")
        self._live()
        self._due = self._monotonic() + INTERVAL

    def beat(self) -> None:
        """Report the worker if two seconds have passed.  For the sender's threads, in turn."""
        now = self._monotonic()
        if self._recorder.ring is None:
            return  # Sluice has ended before the worker: nothing begins anew for this
        if now >= self._due and not self._over:
            self._due += INTERVAL
            if self._due <= now:  # late by more than a whole one: it is not made up for
                self._due = now + INTERVAL
            active = len(worker_state.active_requests)
            self._report("busy" if active else "idle", "worker-heartbeat")
            self._live()

    def offline(self) -> None:
        """The worker has stopped.  Said once."""
        if not self._over:
            self._over = True
            self._report("offline", "worker-offline")
            self._keep_sign(None)

    def _report(self, state: WorkerState, celery_event: str) -> None:
        try:
            self._recorder.worker(self._clock(), self._snapshot(state, celery_event))
        except Exception as error:  # noqa: BLE001  rule 1
            self._recorder.notices.fault(f"capture of {celery_event}", error)

    def _snapshot(self, state: WorkerState, celery_event: str) -> Worker:
        node, host = self._names()
        metadata: dict[str, Scalar | list[float]] = {
            "pool": self._pool,
            "software": "celery",
            "version": celery_version,
            "sdkVersion": __version__,
            "processed": worker_state.all_total_count[0],
            "loadAverage": [round(load, 2) for load in os.getloadavg()],
        }
        return Worker(
            external_id=node,
            hostname=host,
            pid=self._pid,
            state=state,
            concurrency=self._concurrency(),
            active_jobs=len(worker_state.active_requests),
            queues=[
                cut(str(name), QUEUE_LIMIT)
                for name in list(self._queues.consume_from)[:_MOST_QUEUES]
            ],
            metadata=metadata,
            extensions={"celeryEvent": celery_event},
        )

    def _live(self) -> None:
        """Leave a sign of life, for whoever finds the ring of a worker that was killed."""
        ring = self._recorder.ring
        if ring is None:
            return
        try:
            mark = ring.mark  # before the tasks: what happens from here on is in the ring
            node, host = self._names()
            # The set behind Celery's WeakSet: copying that one would call Python code, in
            # which the worker's own thread can change it.
            requests = [reference() for reference in worker_state.active_requests.data.copy()]
            active = [
                ActiveTask(
                    str(request.id),
                    str(request.name),
                    attempt_number(request.request_dict.get("retries")),
                    request.time_start or self._clock(),
                )
                for request in requests[:MOST_TASKS]
                if request is not None
            ]
            tag = self._recorder.environment
            sign = LifeSign(node, host, self._pid, self._clock(), mark, active, tag)
            self._keep_sign(encode_sign(sign))
            if self._over:  # it has ended meanwhile, on its own thread
                self._keep_sign(None)
        except Exception as error:  # noqa: BLE001  rule 1
            self._recorder.notices.fault("the sign of life", error)

    def _names(self) -> tuple[str, str]:
        """What Celery calls this worker, and the host in it."""
        node = cut(str(self._worker.hostname), ID_LIMIT)
        return node, node.partition("@")[2] or node

    def _concurrency(self) -> int | None:
        """The pool's size now (autoscale changes it), or the one it was started with."""
        # Before Celery 5.7 a gevent pool's `num_processes` are the tasks that it runs.
        name = "num_processes" if self._pool == "prefork" else "limit"
        size = getattr(getattr(self._worker, "pool", None), name, None)
        if not isinstance(size, int):
            size = self._worker.concurrency
        return size if isinstance(size, int) else None
