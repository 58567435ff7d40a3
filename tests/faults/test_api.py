"""A worker whose API goes through every trouble: tasks run as ever, and then all events arrive."""

import itertools

import pytest

from sluice.testing import Answer, IngestServer
from tests.harness import wait_for
from tests.pools.waiting import FAST, PLAIN, wait_lives

pytestmark = [pytest.mark.pool, pytest.mark.redis]
QUIET = ("--without-mingle", "--without-gossip")
TASKS = 20

#: What ends by itself once the API is well again; a refused key or a wrong address is asked about
#: every five minutes only, and "come back tomorrow" within the hour (see test_http.py).
TROUBLES = {
    "no answer": Answer(fault="hang"),
    "one byte a second": Answer(drip=1.0),
    "closed without an answer": Answer(fault="close"),
    "reset": Answer(fault="reset"),
    "closed in the middle": Answer(fault="truncate", status=500),
    "500": Answer(status=500),
    "503": Answer(status=503),
    "429": Answer(status=429),
    "429, a second": Answer(status=429, headers={"Retry-After": "1"}),
    "429, negative": Answer(status=429, headers={"Retry-After": "-5"}),
    "429, garbage": Answer(status=429, headers={"Retry-After": "soon"}),
    "200 with garbage": Answer(body=b"<html>\xff\x00"),
}


def numbers(ingest: IngestServer) -> list[int]:
    """The numbers of the worker's events in the order in which they were accepted first."""
    subjects = [event.get("job") or event["worker"] for event in ingest.events()]
    return [int(one["extensions"]["eventId"].rpartition("-")[2]) for one in subjects]


@pytest.mark.parametrize("pool", ["prefork", "gevent", "eventlet", "threads", "solo"])
def test_a_worker_lives_through_every_trouble(pool, redis_broker, start_worker, client, ingest):
    worker = start_worker(
        redis_broker,
        pool=pool,
        args=QUIET,
        ingest_url=ingest.url,
        extra=FAST | {"SLUICE_REQUEST_TIMEOUT": "1,1"},
    )
    app = client(redis_broker)
    lives = {}
    counts = itertools.count(TASKS, TASKS)
    for name, answer in TROUBLES.items():
        ingest.answer = answer
        seen = len(ingest.requests)
        lives |= {app.send_task("basic.no_result").id: PLAIN for _ in range(TASKS)}
        worker.wait_line("succeeded", 10, count=next(counts))
        wait_for(lambda seen=seen: len(ingest.requests) > seen, 15, f"a request met with {name}")
        ingest.answer = Answer()
        wait_lives(ingest, lives, timeout=40)
    assert worker.stop().code == 0
    found = numbers(ingest)
    assert found == list(range(len(found))), "all of them, in order"
    lines = [line for line in worker.lines if "[sluice]" in line]
    assert len(lines) <= 2 * len(TROUBLES), "one when a trouble begins, one when it is over"
    assert not any("Traceback" in line or "ERROR" in line for line in worker.lines)
