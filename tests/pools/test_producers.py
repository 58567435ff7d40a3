"""`sent` from every kind of process that sends tasks and is no worker."""

import contextlib
import json
import re
import sys
import time
from urllib.request import urlopen

import psutil
import pytest

from sluice.testing import Answer
from tests.harness import environment, wait_for
from tests.harness.front import Front
from tests.pools.timeline import unix
from tests.pools.waiting import FAST, PATIENT, sent_counts

pytestmark = pytest.mark.redis

TIMEOUT = 2.0  # the default of shutdown_timeout
patched = pytest.mark.parametrize("patched_by", ["nobody", "gevent", "eventlet"])


@pytest.fixture
def produce(redis_broker, start_process, spool_dir, ingest):
    """Run `tests.pools.apps.produce`."""

    def run(how, number=1, patched_by="nobody", extra=None, url=None):
        argv = [sys.executable, "-m", "tests.pools.apps.produce", patched_by, how, str(number)]
        env = environment(
            redis_broker.url,
            ingest_url=url or ingest.url,
            spool_dir=spool_dir,
            extra=PATIENT | (extra or {}),
        )
        return start_process(argv, env=env, name=how)

    return run


def sent(process):
    """The ids that a process said it sent, with the process ids of the senders."""
    said = [line.split() for line in process.matching("SENT ")]
    return {task_id: int(pid) for _, task_id, pid in said}


@patched
def test_a_script_that_ends_at_once(patched_by, produce, spool_dir, ingest):
    """Hundreds of events, and the last statement of the script is the last `delay()`."""
    script = produce("send", 300, patched_by)
    assert script.wait(30) == 0
    assert sent_counts(ingest) == dict.fromkeys(sent(script), 1)
    assert len(sent_counts(ingest)) == 300
    assert list(spool_dir.glob("*.ring")) == []
    assert script.matching("Traceback") == script.matching("rror") == []


def test_a_process_with_threads(produce, spool_dir, ingest):
    script = produce("threads", 25)
    assert script.wait(30) == 0
    assert sent_counts(ingest) == dict.fromkeys(sent(script), 1)
    assert len(sent_counts(ingest)) == 8 * 25
    assert list(spool_dir.glob("*.ring")) == []


def test_a_script_that_forks(produce, spool_dir, ingest):
    """Parent, child and grandchild; the parent's sender is at work when it forks."""
    script = produce("os.fork", 20)
    assert script.wait(30) == 0
    assert sent_counts(ingest) == dict.fromkeys(sent(script), 1)
    assert len(sent_counts(ingest)) == 20 * 4
    assert len(set(sent(script).values())) == 3
    assert list(spool_dir.glob("*.ring")) == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_multiprocessing(method, produce, spool_dir, ingest):
    """A forked one ends without Python's `atexit`."""
    script = produce(method, 20)
    assert script.wait(30) == 0
    assert len(set(sent(script).values())) == 3
    assert sent_counts(ingest) == dict.fromkeys(sent(script), 1)
    assert len(sent_counts(ingest)) == 20 * 3
    assert list(spool_dir.glob("*.ring")) == []


def test_a_canvas_is_sent_with_roots_and_times(produce, ingest):
    assert produce("canvas").wait(20) == 0
    jobs = [event["job"] for event in ingest.events()]
    assert len(jobs) == 1 + 3 + 1  # the second of the chain is sent by whoever runs the first
    (elsewhere,) = [job for job in jobs if job["name"] == "elsewhere.task"]
    assert elsewhere["queue"] == "other"
    assert 59 < unix(elsewhere["scheduledFor"]) - unix(elsewhere["createdAt"]) < 61
    for job in jobs:
        assert (job["state"], job["attempt"]) == ("queued", 1)
        assert job["rootId"] == job["externalId"]
        assert "parentId" not in job
        assert "workerId" not in job


def test_a_web_server_that_forks(produce, spool_dir, ingest):
    """`init()` before the fork, as with a preloaded app: each process sends for itself."""
    web = produce("web", extra=FAST)
    (line,) = web.wait_line("LISTENS", 20)
    _, port, threads = line.split()
    assert threads == "1"

    def ask(path):
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            pid, threads = answer.read().split()
            return int(pid), int(threads)

    def both(path):
        pids = set()
        wait_for(lambda: pids.add(ask(path)[0]) or len(pids) == 2, 20, "both to have answered")
        return pids

    assert {threads for _, threads in [ask("/") for _ in range(10)]} == {1}
    assert list(spool_dir.glob("*.ring")) == []
    pids = both("/send")
    # Each says so before it answers, but what it says comes here by another way.
    wait_for(lambda: set(sent(web).values()) == pids, 10, "both to have said what they sent")
    wait_for(lambda: set(sent_counts(ingest)) >= set(sent(web)), 10, "what both sent")
    assert sent_counts(ingest) == dict.fromkeys(sent(web), 1)
    assert psutil.Process(web.pid).num_threads() == 1
    assert [psutil.Process(pid).num_threads() for pid in pids] == [2, 2]


def test_beat(redis_broker, start_process, spool_dir, tmp_path, ingest):
    """It is told to end while it sleeps: in the middle of a publication it breaks by itself."""
    schedule = {"entry": {"task": "basic.ok", "schedule": 1.0}}
    argv = [sys.executable, "-m", "celery", "-A", "tests.harness.apps.basic", "beat"]
    env = environment(
        redis_broker.url,
        ingest_url=ingest.url,
        spool_dir=spool_dir,
        conf={"beat_schedule": schedule},
        extra=FAST | {"SLUICE_SHUTDOWN_TIMEOUT": "60"},
    )
    argv += ["-s", str(tmp_path / "schedule"), "--pidfile", "", "-l", "INFO"]
    beat = start_process(argv, env=env, name="beat")
    wait_for(lambda: len(sent_counts(ingest)) >= 2, 30, "two tasks told of, right after each")
    end = beat.stop(timeout=40)
    assert end.code == 0
    assert end.seconds < 15
    with redis_broker.server.client(redis_broker.space) as valkey:
        queued = [json.loads(m)["headers"]["id"] for m in valkey.lrange("celery", 0, -1)]
    assert sent_counts(ingest) == dict.fromkeys(queued, 1)
    assert len(queued) >= 2
    assert list(spool_dir.glob("*.ring")) == []


@patched
def test_a_process_that_sends_nothing_has_no_thread_and_no_ring(
    patched_by, produce, spool_dir, ingest
):
    script = produce("nothing", patched_by=patched_by)
    assert script.wait(20) == 0
    assert script.matching("STATS") == ["STATS none True 0"]
    assert script.matching("THREADS") == ["THREADS 1 1"]
    assert list(spool_dir.glob("*")) == []
    assert ingest.requests == []


@pytest.fixture
def silent_url():
    """A server whose queue of connections is full: to connect to it takes for ever."""
    with contextlib.closing(Front(0)) as front, front.black_hole():
        yield f"http://127.0.0.1:{front.port}/api"


@pytest.mark.alone
@patched
@pytest.mark.parametrize("trouble", ["hangs", "cannot be reached"])
def test_a_script_ends_in_time_when_the_api(
    trouble, patched_by, produce, spool_dir, ingest, silent_url
):
    ingest.answer = Answer(fault="hang")
    url = ingest.url if trouble == "hangs" else silent_url
    in_time = {"SLUICE_SHUTDOWN_TIMEOUT": str(TIMEOUT)}
    script = produce("send", 5, patched_by, url=url, extra=in_time)
    script.wait_line("LAST WORD", 20)
    begin = time.monotonic()
    assert script.wait(20) == 0
    assert time.monotonic() - begin < TIMEOUT + 1
    assert len(sent(script)) == 5
    # What could not be delivered waits for the next process.
    (ring,) = spool_dir.glob("*.ring")
    text = ring.read_bytes()
    assert all(re.search(task_id.encode(), text) for task_id in sent(script))


@patched
def test_a_flush_returns_as_soon_as_all_is_delivered(patched_by, produce, ingest):
    """And not when the flush interval is over."""
    script = produce("flush", 1, patched_by, extra={"SLUICE_FLUSH_INTERVAL": "30"})
    assert script.wait(30) == 0
    (line,) = script.matching("SLOWEST")
    assert float(line.split()[1]) < 10
