"""Tasks that are sent from where nobody would: finalisers, signal handlers, ten threads at once."""

import json
import textwrap

import pytest

from tests.doubles import run_python
from tests.harness import wait_for
from tests.pools.timeline import timelines
from tests.pools.waiting import FAST, PLAIN, wait_lives

# The broker is left out: a second put of kombu's, under the first in the same thread, waits for the
# first one's lock. All else of a publication is Celery's own.
HEADER = """
import gc, json, signal, sys, threading
import celery, sluice
sluice.init()
app = celery.Celery(broker="memory://")
connection = app.connection_for_write()
@app.task(ignore_result=True, name="sent")
def task(): pass
ids = []
def send(task_id=None):
    producer = app.amqp.Producer(connection)
    producer.publish = lambda *_, **__: None
    ids.append(task.apply_async(producer=producer, task_id=task_id).id)
send()
def end():
    print(json.dumps({"ids": ids, "delivered": sluice.flush(20), "faults": sluice.stats().faults,
                      "dropped": sluice.stats().dropped}), flush=True)
"""


@pytest.fixture
def script(ingest, spool_dir):
    """Run it, and see that each task was told of, once."""

    def run(code):
        env = {
            "SLUICE_API_URL": ingest.url,
            "SLUICE_SPOOL_DIR": str(spool_dir),
            "PYTHONWARNINGS": "ignore::DeprecationWarning",  # a fork beside threads
        }
        code = HEADER + textwrap.dedent(code) + "\nend()"
        done = run_python(code, timeout=90, **env | FAST)
        assert done.stderr == ""
        report = json.loads(done.stdout)
        assert (report["delivered"], report["faults"], report["dropped"]) == (True, 0, 0)
        assert len(set(report["ids"])) == len(report["ids"])
        told = [event["job"]["externalId"] for event in ingest.events()]
        assert sorted(told) == sorted(report["ids"])
        return len(told)

    return run


def test_from_finalisers_in_a_garbage_collection(script):
    """Which comes with an allocation, so also in the middle of another capture."""
    told = script(
        """
        class Litter:
            def __init__(self): self.me = self
            def __del__(self): send()
        gc.set_threshold(20, 2, 2)
        for _ in range(1500):
            Litter()
            send()
        gc.collect()
        """
    )
    assert told == 1 + 2 * 1500


def test_from_a_signal_handler_under_load(script):
    told = script(
        """
        came = 0
        def tick(*_):
            global came
            came += 1
            send()
            signal.setitimer(signal.ITIMER_REAL, 0.001)  # each once: not into each other for ever
        signal.signal(signal.SIGALRM, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        number = 0
        while came < 1000 or number < 1000:
            send()
            number += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        """
    )
    assert told >= 2001


def test_from_a_child_that_was_forked_in_the_middle_of_a_publication(script):
    """Of another thread, which does not exist in the child, and has Celery's locks there."""
    told = script(
        """
        import os
        from celery import signals
        held, over = threading.Event(), threading.Event()
        def publish():
            with signals.before_task_publish.lock, signals.after_task_publish.lock:
                held.set()
                over.wait(30)
        thread = threading.Thread(target=publish)
        thread.start()
        held.wait()
        sluice.flush(20)  # its imports are done
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            send("from-the-child")
            os._exit(0 if sluice.flush(10) else 1)
        assert os.waitpid(pid, 0)[1] == 0
        ids.append("from-the-child")
        over.set()
        thread.join()
        """
    )
    assert told == 2


def test_from_ten_threads_at_once(script):
    told = script(
        """
        sys.setswitchinterval(0.00001)
        together = threading.Barrier(10)
        def work():
            together.wait()
            for _ in range(200): send()
        threads = [threading.Thread(target=work) for _ in range(10)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """
    )
    assert told == 1 + 10 * 200


@pytest.mark.pool
@pytest.mark.redis
def test_from_ten_threads_of_a_worker(start_worker, redis_broker, client, ingest):
    worker = start_worker(
        redis_broker, pool="threads", concurrency=10, ingest_url=ingest.url, extra=FAST
    )
    app = client(redis_broker)
    parents = [app.send_task("basic.sends_others", (50,)).id for _ in range(10)]
    wait_lives(ingest, dict.fromkeys(parents, PLAIN))

    def sent():
        lines = timelines(ingest.events()).values()
        return {line.task_id: PLAIN for line in lines if line.sent}

    wait_for(lambda: len(sent()) >= 500, 30, "what they sent")
    wait_lives(ingest, sent(), sent=True)
    assert len(sent()) == 500
    assert worker.stop().code == 0
