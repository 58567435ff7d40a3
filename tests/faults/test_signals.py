"""The ways in which a worker is told to end, or to begin anew, that are not plain warm or cold.

Those are in tests/pools/test_shutdown.py; SIGKILL is in test_death.py.
"""

import os
import signal
import sys
from pathlib import Path

import celery
import pytest

from tests.faults.ledger import event_ids
from tests.harness import POOLS, QUIET, environment, wait_for
from tests.pools.timeline import timelines, what
from tests.pools.waiting import FAST, PLAIN, wait_lives, workers

pytestmark = [pytest.mark.pool, pytest.mark.redis]


def states(ingest):
    told = [worker["state"] for worker in workers(ingest)]
    return [state for state in told if state in ("online", "offline")]


def steps(ingest, task_id):
    line = timelines(ingest.events()).get(task_id)
    return " ".join(map(what, line.told)) if line else ""


def busy_worker(start_worker, broker, client, ingest, pool, seconds, **kwargs):
    """A worker that has done ten tasks, and is at one of so many seconds each."""
    worker = start_worker(
        broker, pool=pool, args=QUIET, ingest_url=ingest.url, extra=FAST, **kwargs
    )
    app = client(broker)
    lives = {app.send_task("basic.no_result").id: PLAIN for _ in range(10)}
    worker.wait_line("succeeded", 20, count=10)
    slow = [app.send_task("basic.slow", (each,), ignore_result=True).id for each in seconds]
    wait_for(lambda: all(steps(ingest, one) == "received started" for one in slow), 20, "slow")
    return worker, lives, slow


@pytest.mark.skipif(celery.VERSION < (5, 5), reason="soft shutdown came with Celery 5.5")
def test_a_soft_end(start_worker, redis_broker, client, ingest, spool_dir):
    """What ends within the time of grace, and what does not: both as Celery tells them.

    Which is cancelled: its MAIN sleeps for that time, and has heard of no end.
    Not in green pools: Celery 5.7 sleeps in the hub, which both libraries refuse.
    """
    conf = {"worker_soft_shutdown_timeout": 8.0}
    worker, lives, (short, long) = busy_worker(
        start_worker, redis_broker, client, ingest, "prefork", (5.0, 60.0), conf=conf
    )
    ended = worker.stop(signal.SIGQUIT, timeout=30)
    assert worker.matching("Initiating Soft Shutdown")
    assert ended.seconds < 8 + 2 + 5
    wait_lives(ingest, lives, timeout=1)
    worker.wait_line(f"{short}] succeeded", 1)
    assert steps(ingest, short) == steps(ingest, long) == "received started cancelled"
    assert states(ingest) == ["online", "offline"]
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []


@pytest.mark.skipif(celery.VERSION < (5, 5), reason="soft shutdown came with Celery 5.5")
@pytest.mark.parametrize(("pool", "life"), [("threads", "succeeded"), ("solo", "failed")])
def test_a_soft_end_of_a_pool_that_cannot_cancel_a_task(
    pool, life, start_worker, redis_broker, client, ingest, spool_dir
):
    """A thread's task ends meanwhile; solo's cannot, Celery's sleep being inside it."""
    conf = {"worker_soft_shutdown_timeout": 8.0}
    worker, lives, (slow,) = busy_worker(
        start_worker, redis_broker, client, ingest, pool, (5.0,), conf=conf
    )
    ended = worker.stop(signal.SIGQUIT, timeout=30)
    assert worker.matching("Initiating Soft Shutdown")
    assert ended.seconds < 8 + 2 + 5
    wait_lives(ingest, lives, timeout=1)
    assert steps(ingest, slow) == f"received started {life}"
    assert states(ingest) == ["online", "offline"]
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []


@pytest.mark.skipif(celery.VERSION < (5, 5), reason="hard shutdown came with Celery 5.5")
def test_a_hard_end(start_worker, redis_broker, client, ingest, spool_dir):
    """SIGQUIT three times: nothing is waited for any more, and what was captured is not lost."""
    conf = {"worker_soft_shutdown_timeout": 30.0}
    worker, lives, (slow,) = busy_worker(
        start_worker, redis_broker, client, ingest, "prefork", (60.0,), conf=conf
    )
    worker.send_signal(signal.SIGQUIT)
    worker.wait_line("Initiating Soft Shutdown", 10)
    worker.send_signal(signal.SIGQUIT)
    worker.wait_line("Waiting gracefully for cold shutdown to complete", 10)
    ended = worker.stop(signal.SIGQUIT, timeout=30)
    assert ended.seconds < 6
    start_worker(
        redis_broker, pool="solo", args=(*QUIET, "-Q", "other"), ingest_url=ingest.url, extra=FAST
    )
    wait_lives(ingest, lives, timeout=20)
    assert steps(ingest, slow).startswith("received started")
    assert "succeeded" not in steps(ingest, slow)
    wait_for(lambda: "offline" in states(ingest), 30, "the end to be told")
    assert set(event_ids(ingest).values()) == {1}


@pytest.mark.parametrize("pool", ["prefork", "gevent", "eventlet"])
def test_a_warm_end_that_is_cut_short(pool, start_worker, redis_broker, client, ingest, spool_dir):
    worker, lives, (slow,) = busy_worker(start_worker, redis_broker, client, ingest, pool, (60.0,))
    worker.send_signal(signal.SIGTERM)
    worker.wait_line("Warm shutdown", 10)
    ended = worker.stop(signal.SIGQUIT, timeout=30)
    assert ended.seconds < 8
    wait_lives(ingest, lives, timeout=1)
    assert steps(ingest, slow).startswith("received started")
    assert "succeeded" not in steps(ingest, slow)
    assert states(ingest) == ["online", "offline"]
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []


@pytest.mark.parametrize(("pool", "life"), [("threads", "succeeded"), ("solo", "failed")])
@pytest.mark.parametrize("end", ["warm, then cold", "cold"])
def test_a_cold_end_of_a_pool_that_cannot_cancel_a_task(
    pool, life, end, start_worker, redis_broker, client, ingest, spool_dir
):
    """Celery raises because of that: in its main thread, which in solo is the task's.

    A thread's task goes on to its end, which the process waits for.
    """
    worker, lives, (slow,) = busy_worker(start_worker, redis_broker, client, ingest, pool, (8.0,))
    if end != "cold":
        worker.send_signal(signal.SIGTERM)
        worker.wait_line("Warm shutdown", 10)
    ended = worker.stop(signal.SIGQUIT, timeout=30)
    assert ended.seconds < 8 + 2 + 5
    wait_lives(ingest, lives, timeout=1)
    assert steps(ingest, slow) == f"received started {life}"
    assert states(ingest) == ["online", "offline"]
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []


@pytest.mark.parametrize("pool", POOLS)
def test_hup_begins_anew(pool, start_process, redis_broker, client, ingest, spool_dir):
    """Celery ends the worker in order and runs the program again, as the same process.

    Which it can when it was started by its script, and not by `python -m celery`.
    """
    argv = [str(Path(sys.executable).with_name("celery")), "-A", "tests.harness.apps.basic"]
    argv += ["worker", "-P", pool, "-c", "2", "-l", "INFO", *QUIET]
    env = environment(redis_broker.url, ingest_url=ingest.url, spool_dir=spool_dir, extra=FAST)
    worker = start_process(argv, env=env)
    worker.wait_line("ready.", 30)
    app = client(redis_broker)
    lives = {app.send_task("basic.no_result").id: PLAIN for _ in range(10)}
    worker.wait_line("succeeded", 20, count=10)
    slow = app.send_task("basic.slow", (5.0,)).id
    # One that has only been received Celery may give back, and it is received again.
    wait_for(lambda: steps(ingest, slow) == "received started", 20, "slow")
    worker.send_signal(signal.SIGHUP)
    worker.wait_line("ready.", 40, count=2)
    lives |= {app.send_task("basic.no_result").id: PLAIN for _ in range(10)}
    wait_lives(ingest, lives | {slow: PLAIN})
    assert states(ingest) == ["online", "offline", "online"]
    assert {told["pid"] for told in workers(ingest)} == {worker.pid}
    wait_for(lambda: len(rings(spool_dir)) == own_rings(pool), 25, "the first's ring to go")
    assert worker.stop().code == 0
    assert states(ingest) == ["online", "offline", "online", "offline"]
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []


def rings(spool_dir):
    return [name for name in os.listdir(spool_dir) if name.endswith(".ring")]


def own_rings(pool):
    return 1 + 2 * (pool == "prefork")  # MAIN's, and its children's


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_with_beat_inside_ends_as_quickly(
    pool, start_worker, redis_broker, ingest, tmp_path, spool_dir
):
    schedule = {"each": {"task": "basic.no_result", "schedule": 0.2}}
    sides = {
        init: start_worker(
            redis_broker,
            pool=pool,
            args=(*QUIET, "-B", "-s", str(tmp_path / f"schedule {init}"), "-Q", f"side-{init}"),
            init=init,
            ingest_url=ingest.url,
            conf={"beat_schedule": schedule, "task_default_queue": f"side-{init}"},
            extra=FAST,
        )
        for init in (False, True)
    }

    def sent():
        return [line for line in timelines(ingest.events()).values() if line.sent]

    wait_for(lambda: len(sent()) >= 10, 20, "what beat sends")
    ends = {init: worker.stop(timeout=30) for init, worker in sides.items()}
    assert ends[True].code == ends[False].code == 0
    assert ends[True].seconds < ends[False].seconds + 2 + 5
    assert states(ingest) == ["online", "offline"]
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []
