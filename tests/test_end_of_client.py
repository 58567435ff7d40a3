"""`shutdown()` and the end of a process: once, in time, and nothing begins anew after it."""

from __future__ import annotations

import json
import os
import textwrap

import pytest

from sluice.testing import Answer, IngestServer
from tests.doubles import CLIENT_SCRIPT, run_python

HEADER = CLIENT_SCRIPT + "def say(*report): print(json.dumps(report), flush=True)\n"


@pytest.fixture
def script(ingest: IngestServer, spool_dir: os.PathLike[str]):
    def run(code: str, **extra: str) -> list[object]:
        env = {"SLUICE_API_URL": ingest.url, "SLUICE_SPOOL_DIR": str(spool_dir)} | extra
        done = run_python(HEADER + textwrap.dedent(code), **env)
        assert "Error" not in done.stderr
        return json.loads(done.stdout)

    return run


def test_two_threads_may_end_it_at_once(script):
    """Whatever its bell's descriptors have become by then is somebody else's."""
    found = script(
        """
        task.delay()
        found, together = [], threading.Barrier(8)
        closed = []
        close = os.close
        os.close = lambda number: (closed.append(number), close(number))
        def end():
            together.wait()
            try: found.append(sluice.shutdown(5))
            except BaseException as error: found.append(repr(error))
        threads = [threading.Thread(target=end) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        say(found, len(closed))
        """
    )
    assert found == [[True] * 8, 2]


def test_whoever_waits_for_ever_waits_until_it_is_done(script):
    found = script(
        """
        task.delay()
        say(sluice.flush(float("inf")), sluice.shutdown(float("inf")))
        """
    )
    assert found == [True, True]


def test_a_process_in_which_a_worker_has_ended_has_time_at_its_own_end(script, ingest):
    """Of a test, say, that starts a worker on a thread; it ends later, and delivers first."""
    found = script(
        """
        client.begin_worker(forks=False)
        client.start_sender()
        task.delay()
        client.flush_at_end()
        client._exit_deadline = time.monotonic() - 1
        task.delay()
        say(client._time_to_end() > 1, client._time_to_end() > 1)
        """,
        SLUICE_SHUTDOWN_TIMEOUT="30",
    )
    assert found == [True, True]
    assert len(ingest.events()) == 2


def test_what_is_moved_from_a_child_gives_the_end_no_more_time(script):
    found = script(
        """
        client.begin_worker(forks=True)
        client.start_sender()
        client.flush_at_end()
        client._exit_deadline = time.monotonic() - 1
        if os.fork() == 0:
            task.delay()
            os._exit(0)
        until = time.monotonic() + 10
        while not client._relay.moved and time.monotonic() < until: time.sleep(0.01)
        say(client._relay.moved, client._time_to_end())
        """
    )
    assert found == [1, 0.0]


def test_what_comes_during_a_workers_last_flush_gives_the_end_no_more_time(script, ingest):
    ingest.answer = Answer(fault="hang")
    found = script(
        """
        client.begin_worker(forks=False)
        client.start_sender()
        task.delay()
        threading.Timer(0.2, task.delay).start()
        client.flush_at_end()
        say(client._captured_here, client._time_to_end())
        """
    )
    assert found == [2, 0.0]


def test_a_signal_handler_may_end_it_in_the_middle_of_its_end(script, ingest):
    ingest.answer = Answer(fault="hang")
    found = script(
        """
        task.delay()
        time.sleep(0.5)
        inner = []
        signal.signal(signal.SIGALRM, lambda *_: inner.append(sluice.shutdown(0.2)))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        say(sluice.shutdown(1.0), inner)
        """
    )
    assert found == [False, [False]]


def test_a_heartbeat_after_the_end_begins_nothing_anew(script, ingest, spool_dir):
    """A worker that ends the hard way says no goodbye, and the API hangs meanwhile."""
    ingest.answer = Answer(fault="hang")
    found = script(
        """
        from types import SimpleNamespace as Some
        from sluice.capture.heartbeat import Heartbeat
        queues = Some(consume_from={"celery": 1})
        worker = Some(app=Some(amqp=Some(queues=queues)), hostname="w@h", pool=None, concurrency=1)
        heartbeat = Heartbeat(client.recorder, worker, "prefork", keep_sign=client.keep_sign)
        client.begin_worker(forks=True)
        client.at_every_turn(heartbeat.beat)
        client.start_sender()
        heartbeat.online()
        time.sleep(0.5)
        delivery = client._delivery
        client._end(0.3)
        heartbeat._due = 0.0
        for _ in range(20):
            delivery._do_chores()
            heartbeat.beat()
            time.sleep(0.02)
        say(client.recorder.ring is None, client._delivery is None)
        os._exit(0)
        """
    )
    assert found == [True, True]
    assert [name for name in os.listdir(spool_dir) if not name.endswith(".ring")] == []
