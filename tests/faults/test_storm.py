"""Children are killed all the time: every task has an end, and no captured event is lost.

Every 50 ms, if the pool is whole: Celery replaces about 15 children a second, and where more are
killed than that no task runs at all, with or without Sluice.
"""

import contextlib
import json
import os
import random
import signal
import threading
from collections import Counter

import psutil
import pytest

from tests.harness import wait_for
from tests.pools.timeline import drops_reported, timelines
from tests.pools.waiting import FAST

pytestmark = [pytest.mark.pool, pytest.mark.redis, pytest.mark.long, pytest.mark.timeout(900)]

#: Of the tasks that the storm is for, and seconds between two kills.
TASKS = int(os.environ.get("FAULTS_TASKS", "10000"))
EVERY = 0.05
CONCURRENCY = 4


def test_a_random_child_is_killed_every_fifty_milliseconds(
    redis_broker, start_worker, client, ingest, spool_dir, tmp_path
):
    notes = tmp_path / "captured"
    worker = start_worker(
        redis_broker,
        app="tests.faults.apps",
        concurrency=CONCURRENCY,
        args=("--without-mingle", "--without-gossip"),
        ingest_url=ingest.url,
        extra=FAST | {"FAULTS_CAPTURED": str(notes)},
        loglevel="INFO",
    )
    app = client(redis_broker)
    main = psutil.Process(worker.pid)
    over = threading.Event()
    killed = []

    def kill() -> None:
        while not over.wait(EVERY):
            with contextlib.suppress(psutil.Error, IndexError):
                children = main.children()
                if len(children) == CONCURRENCY:
                    child = random.choice(children)
                    child.send_signal(signal.SIGKILL)
                    killed.append(child.pid)

    storm = threading.Thread(target=kill)
    storm.start()
    try:
        with app.producer_pool.acquire() as producer:
            ids = [app.send_task("faults.send_one", producer=producer).id for _ in range(TASKS)]

        def ended() -> bool:
            lines = timelines(ingest.events())
            return all(i in lines and lines[i].end["job"].get("completedAt") for i in ids)

        wait_for(ended, 800, "the end of every task")
    finally:
        over.set()
        storm.join()
    assert worker.stop().code == 0

    lines = timelines(ingest.events())
    states = Counter(lines[task_id].end["job"]["state"] for task_id in ids)
    assert set(states) <= {"completed", "failed"}
    assert states["failed"] > 0, "the storm was felt"
    for task_id in ids:
        ends = [event for event in lines[task_id].told if event["job"].get("completedAt")]
        assert len(ends) == 1, task_id
    with redis_broker.server.client(redis_broker.space) as valkey:
        published = {json.loads(m)["headers"]["id"] for m in valkey.lrange("elsewhere", 0, -1)}
    told = {task_id for task_id, line in lines.items() if line.sent}
    captured = set(notes.read_text().split())
    assert len(captured) > TASKS / 2
    assert captured <= told <= published, "nothing captured is lost"
    # A child that dies between Celery's publishing and our hearing of it has captured nothing.
    assert len(published - told) <= len(killed)
    assert drops_reported(ingest.events()) == 0
    print(
        f"{len(killed)} kills, {states}, {len(captured)} captures noted, all of them told;"
        f" {len(published - told)} of {len(published)} published and not told"
    )
    assert list(spool_dir.iterdir()) == []
