"""The end of a worker, and a worker whose API does not do what it should."""

import signal

import pytest

from sluice.testing import Answer, IngestServer
from tests.harness import API_KEY, wait_for
from tests.pools.waiting import PLAIN, wait_lives, workers

pytestmark = [pytest.mark.pool, pytest.mark.redis]

SHUTDOWN_TIMEOUT = 2.0
#: A machine of two cores that is busy elsewhere: what may come on top, in seconds.
SLACK = 1.0
QUIET = ("--without-mingle", "--without-gossip")
REFUSES = "http://127.0.0.1:9/api"
STATES = {
    "up": Answer(),
    "hanging": Answer(fault="hang"),
    "refusing": None,
}


def our_lines(worker) -> list[str]:
    return [line for line in worker.lines if "[sluice]" in line]


def end_seconds(start_worker, redis_broker, client, pool: str, **options) -> tuple[int, float]:
    """Run a few tasks, send TERM, and say how it ended and how long it took."""
    worker = start_worker(redis_broker, pool=pool, args=QUIET, **options)
    app = client(redis_broker)
    for _ in range(10):
        app.send_task("basic.ok")
    worker.wait_line("succeeded", 20, count=10)
    ended = worker.stop(timeout=40)
    return ended.code, ended.seconds


@pytest.mark.parametrize("pool", ["prefork", "gevent", "eventlet", "threads", "solo"])
def test_term_to_exit_takes_no_longer_than_promised(
    pool, redis_broker, start_worker, client, ingest
):
    code, without = end_seconds(start_worker, redis_broker, client, pool, init=False)
    for state, answer in STATES.items():
        ingest.answer = answer or Answer()
        url = ingest.url if answer else REFUSES
        same_code, seconds = end_seconds(start_worker, redis_broker, client, pool, ingest_url=url)
        assert same_code == code == 0, state
        assert seconds <= without + SHUTDOWN_TIMEOUT + SLACK, state


@pytest.mark.parametrize("pool", ["prefork", "gevent", "threads", "solo"])
def test_what_was_captured_before_the_end_arrives(pool, redis_broker, start_worker, client, ingest):
    """Also with a flush interval that would not have come round."""
    worker = start_worker(
        redis_broker, pool=pool, args=QUIET, ingest_url=ingest.url,
        extra={"SLUICE_FLUSH_INTERVAL": "30"},
    )  # fmt: skip
    app = client(redis_broker)
    lives = {app.send_task("basic.ok").id: PLAIN for _ in range(20)}
    worker.wait_line("succeeded", 20, count=20)
    assert worker.stop().code == 0
    wait_lives(ingest, lives, timeout=1)
    assert workers(ingest)[-1]["state"] == "offline"


def test_a_cold_end_delivers_too(redis_broker, start_worker, client, ingest):
    worker = start_worker(
        redis_broker, pool="prefork", args=QUIET, ingest_url=ingest.url,
        extra={"SLUICE_FLUSH_INTERVAL": "30"},
    )  # fmt: skip
    app = client(redis_broker)
    lives = {app.send_task("basic.ok").id: PLAIN for _ in range(5)}
    worker.wait_line("succeeded", 20, count=5)
    slow = app.send_task("basic.slow", (60,))
    worker.wait_line(slow.id, 10)
    worker.send_signal(signal.SIGQUIT)
    worker.wait(20)
    wait_lives(ingest, lives, timeout=1)
    states = [
        e["job"]["state"] for e in ingest.events() if e.get("job", {}).get("externalId") == slow.id
    ]
    assert states[:2] == ["queued", "active"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_one_line_and_nothing_else(
    status, redis_broker, start_worker, client, ingest
):
    ingest.answer = Answer(status=status)
    worker = start_worker(redis_broker, pool="prefork", args=QUIET, ingest_url=ingest.url)
    app = client(redis_broker)
    for _ in range(20):
        app.send_task("basic.ok")
    worker.wait_line("succeeded", 20, count=20)
    line = worker.wait_line("[sluice]", 10)
    assert f"The API key was refused (the API answered {status})" in line[0]
    assert worker.stop().code == 0
    refused = [line for line in our_lines(worker) if "refused" in line]
    assert len(refused) == 1
    assert API_KEY not in worker.output(last=10_000)
    assert len(ingest.requests) <= 5, "a refused key is tried again rarely"


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_events_of_an_outage_arrive_when_it_is_over(pool, redis_broker, start_worker, client):
    first = IngestServer()
    first.close()
    worker = start_worker(
        redis_broker, pool=pool, args=QUIET, ingest_url=first.url,
        extra={"SLUICE_FLUSH_INTERVAL": "0.2"},
    )  # fmt: skip
    app = client(redis_broker)
    lives = {app.send_task("basic.ok").id: PLAIN for _ in range(30)}
    worker.wait_line("succeeded", 20, count=30)
    worker.wait_line("[sluice] Events cannot be delivered now", 15)
    with IngestServer(port=first.port) as second:
        wait_lives(second, lives, timeout=60)
        wait_for(lambda: workers(second, "online"), 5, "the start of the worker")
        assert worker.stop().code == 0
    assert sum("cannot be delivered" in line for line in our_lines(worker)) == 1
