"""The green process that benchmarks/hub_stall.py measures; it patches before it imports anything.

python -m benchmarks.hub_process gevent|eventlet idle|again|without|sluice RATE SECONDS
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def process(library: str, kind: str, rate: int, seconds: float) -> None:
    """The process that is measured: print by how many seconds the ticker was late, as JSON."""
    if library == "gevent":
        import gevent.monkey

        gevent.monkey.patch_all()
        from gevent import sleep, spawn
    else:
        import eventlet

        eventlet.monkey_patch()
        from eventlet import sleep, spawn
    import time

    from benchmarks.fakes import FakeRequest

    make: Any = FakeRequest
    received: Any = id
    if kind == "sluice":
        import sluice
        from sluice.capture.hook import hooked
        from sluice.capture.request import TaskObserver

        sluice.init()
        client = sluice._client
        assert client is not None
        observer = TaskObserver(client.recorder, tracebacks=True)
        make = hooked(FakeRequest, observer)
        received = observer.received

    warm = time.monotonic() + 1.0
    end = warm + seconds
    tasks = 0

    def work() -> None:
        nonlocal tasks
        number, begun = 0, time.monotonic()
        while (now := time.monotonic()) < end and kind in ("without", "sluice"):
            while begun + number * 3 / rate <= now:
                request = make()
                received(request)
                sleep(0)
                request.send_event("task-started")
                sleep(0)
                request.send_event("task-succeeded", runtime=0.001)
                number += 1
                tasks += 1
            sleep(0.001)

    spawn(work)
    late = []
    while (before := time.monotonic()) < end:
        sleep(0.001)
        if before >= warm:
            late.append(time.monotonic() - before - 0.001)
    print(json.dumps({"late": late, "events": 3 * tasks}))
    sys.stdout.flush()


if __name__ == "__main__":
    process(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
    os._exit(0)  # what is left to send is nobody's concern here
