"""The reader keeps up without being woken per event, and costs nothing when there is none."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from sluice.testing import Answer, IngestServer
from tests.doubles import run_python
from tests.harness import Broker, Worker, wait_for
from tests.harness.processes import ROOT

pytestmark = pytest.mark.alone
SERVER = """
import sys
from sluice.testing import IngestServer
with IngestServer() as server:
    print(server.url, flush=True)
    sys.stdin.readline()
    print(len(server.events()), flush=True)
"""
CAPTURE = """
import json, sys, time
import sluice
from sluice.events import Job
sluice.init()
record = sluice._client.recorder.job
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
job = Job(external_id="45961a8c-1d54-41ed-af4e-8fc48b959485", name="orders.charge", state="active",
          queue="celery", previous_state="queued", worker_id="celery@worker-1", attempt=1,
          root_id="45961a8c-1d54-41ed-af4e-8fc48b959485",
          extensions={"celeryEvent": "task-started"})
begun, done = time.monotonic(), 0
while done < rate * seconds:
    due = min(int((time.monotonic() - begun) * rate), int(rate * seconds))
    for _ in range(due - done):
        record(time.time(), job)
    done = due
    time.sleep(0.002)
took = time.monotonic() - begun
ended = sluice.shutdown(20)
stats = sluice.stats()
print(json.dumps([ended, took, stats.captured, stats.delivered, stats.dropped, stats.requests]))
"""
IDLE = """
import json, resource, time
import celery, sluice
sluice.init()
app = celery.Celery(broker="memory://")
@app.task
def task(): pass
task.delay()
assert sluice.flush(5)
time.sleep(1)
before = time.process_time()
time.sleep(5)
print(json.dumps(time.process_time() - before))
sluice.shutdown()
"""


def run(code: str, url: str, spool_dir: Any, *args: str) -> Any:
    env = {"SLUICE_API_URL": url, "SLUICE_SPOOL_DIR": str(spool_dir)}
    return json.loads(run_python(code, *args, timeout=120, **env).stdout)


def test_twenty_thousand_events_a_second_for_ten_seconds_overwrite_nothing(
    spool_dir: os.PathLike[str],
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as server:
        assert server.stdin
        assert server.stdout
        url = server.stdout.readline().strip()
        ended, took, captured, delivered, dropped, requests = run(
            CAPTURE, url, spool_dir, "20000", "10"
        )
        server.stdin.write("\n")
        server.stdin.flush()
        arrived = int(server.stdout.readline())
    assert ended
    assert took < 10.5
    assert (captured, delivered, dropped, arrived) == (200_000, 200_000, 0, 200_000)
    assert requests <= 200_000 / 250, "batches are not filled"


def test_an_idle_process_costs_no_measurable_cpu(
    ingest: IngestServer, spool_dir: os.PathLike[str]
) -> None:
    """One thread that wakes once a second: 5 s of it within the noise of the clock."""
    assert run(IDLE, ingest.url, spool_dir) < 0.015


@pytest.mark.pool
@pytest.mark.redis
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_an_idle_worker_costs_hardly_more_than_one_without(
    pool: str,
    redis_broker: Broker,
    start_worker: Callable[..., Worker],
    ingest: IngestServer,
) -> None:
    """A heartbeat every 2 s, and its request: half a hundredth of a core at most."""
    workers = {
        init: start_worker(
            redis_broker,
            pool=pool,
            concurrency=1,
            args=("-Q", f"idle-{init}"),
            init=init,
            ingest_url=ingest.url,
        )
        for init in (False, True)
    }
    wait_for(lambda: any("worker" in event for event in ingest.events()), 20, "a heartbeat")

    def seconds() -> dict[bool, float]:
        found = {}
        for init, worker in workers.items():
            processes = [psutil.Process(worker.pid), *worker.children()]
            found[init] = sum(sum(process.cpu_times()[:2]) for process in processes)
        return found

    before = seconds()
    time.sleep(10)
    spent = {init: after - before[init] for init, after in seconds().items()}
    print(
        f"{pool}: {spent[True] * 100:.1f} ms of CPU a second, and {spent[False] * 100:.1f} without"
    )
    assert spent[True] - spent[False] < 10 * 0.005


@pytest.mark.pool
@pytest.mark.redis
@pytest.mark.parametrize("api", ["up", "hangs"])
def test_a_task_that_sends_ten_thousand_others_loses_none_of_them(
    redis_broker: Broker,
    start_worker: Callable[..., Worker],
    client: Any,
    ingest: IngestServer,
    api: str,
) -> None:
    """Its child's ring holds about a thousand events, and nothing wakes MAIN per event.

    While a request hangs for its 10 s, more comes than MAIN's buffer holds by default: the tasks
    that were sent run, and each is three events more.
    """
    extra = {}
    if api == "hangs":
        ingest.answer = Answer(fault="hang")
        extra = {"SLUICE_BUFFER_BYTES": str(64 * 1024 * 1024)}
    worker = start_worker(
        redis_broker,
        pool="prefork",
        concurrency=1,
        ingest_url=ingest.url,
        wait=False,
        conf={"worker_prefetch_multiplier": 1},
        extra=extra,
    )
    client(redis_broker).send_task("basic.sends_others", (10_000,), queue="celery")
    worker.wait_line("basic.sends_others", 90, count=2)  # received, and succeeded
    ingest.answer = Answer()

    def sent() -> bool:
        states = [e["job"]["extensions"]["celeryEvent"] for e in ingest.events() if "job" in e]
        return states.count("task-sent") == 10_000

    wait_for(sent, 90, "10,000 sent events")
    dropped = [
        e["job"]["extensions"]["droppedEvents"]
        for e in ingest.events()
        if "job" in e and "droppedEvents" in e["job"]["extensions"]
    ]
    assert dropped == []
    worker.kill()
