"""The end of a worker, and a worker whose API does not do what it should."""

import signal
import time
from dataclasses import dataclass

import pytest

from sluice.testing import Answer, IngestServer
from tests.harness import API_KEY, QUIET, Worker, wait_for
from tests.harness.ports import free_port
from tests.pools.timeline import Timeline, subject, timelines, what
from tests.pools.waiting import FAST, PLAIN, wait_lives, workers

pytestmark = [pytest.mark.pool, pytest.mark.redis]

SHUTDOWN_TIMEOUT = 2.0
#: A machine of two cores that is busy elsewhere: what may come on top, in seconds.
SLACK = 1.0
REFUSES = "http://127.0.0.1:9/api"
#: Nothing is sent before the end but what a full buffer or the end itself sends.
AT_THE_END = {"SLUICE_FLUSH_INTERVAL": "30"}


def our_lines(worker) -> list[str]:
    return [line for line in worker.lines if "[sluice]" in line]


@dataclass
class Side:
    """One of several workers that run, and end, beside each other."""

    worker: Worker
    lives: dict[str, tuple[str, ...]]
    slow: str = ""
    code: int | None = None
    seconds: float = 0.0


@pytest.fixture
def side_by_side(redis_broker, start_worker, client, ingest):
    """Start a worker without Sluice, and some with it and an API that behaves differently."""
    hanging = IngestServer(answer=Answer(fault="hang"))
    urls = {"without": None, "up": ingest.url, "hanging": hanging.url, "refusing": REFUSES}

    def start(pool, states, *, slow=False):
        sides = {
            state: start_worker(
                redis_broker,
                pool=pool,
                args=(*QUIET, "-Q", state),
                init=state != "without",
                ingest_url=urls[state],
                extra=AT_THE_END,
                wait=False,
            )
            for state in states
        }
        app = client(redis_broker)
        found = {}
        for state, worker in sides.items():
            worker.wait_ready()
            lives = {app.send_task("basic.ok", queue=state).id: PLAIN for _ in range(10)}
            worker.wait_line("succeeded", 20, count=10)
            found[state] = Side(worker, lives)
            if slow:
                found[state].slow = app.send_task("basic.slow", (60,), queue=state).id
                worker.wait_line(found[state].slow, 10)
        return found

    yield start
    hanging.close()


def end(sides, *signals):
    """Send the same signals to all, and note how each ends, and when."""
    begin = time.monotonic()
    for number, sig in enumerate(signals, 1):
        for side in sides.values():
            side.worker.send_signal(sig)
        if number < len(signals):
            for side in sides.values():
                side.worker.wait_line("Warm shutdown", 10)

    def all_ended():
        for side in sides.values():
            if side.code is None and not side.worker.running:
                side.code, side.seconds = side.worker.returncode, time.monotonic() - begin
        return all(side.code is not None for side in sides.values())

    wait_for(all_ended, 40, lambda: "\n".join(side.worker.output(20) for side in sides.values()))


def assert_ended_alike(sides):
    """Each as the one without Sluice did, and hardly later."""
    without = sides["without"]
    for state, side in sides.items():
        assert side.code == without.code, state
        assert side.seconds <= without.seconds + SHUTDOWN_TIMEOUT + SLACK, state


@pytest.mark.alone
@pytest.mark.parametrize("pool", ["prefork", "gevent", "eventlet", "threads", "solo"])
def test_term_to_exit_takes_no_longer_than_promised(pool, side_by_side, ingest):
    """And what was captured before the end arrives, as does the end itself."""
    sides = side_by_side(pool, ("without", "up", "hanging", "refusing"))
    end(sides, signal.SIGTERM)
    assert_ended_alike(sides)
    assert sides["without"].code == 0
    assert sides["up"].seconds < sides["without"].seconds + SLACK  # there is nothing to wait for
    wait_lives(ingest, sides["up"].lives, timeout=1)
    assert next(worker["state"] for worker in workers(ingest)) == "online"
    assert [worker["state"] for worker in workers(ingest)][-1] == "offline"
    assert our_lines(sides["up"].worker) == []
    for state in ("hanging", "refusing"):
        (line,) = [line for line in our_lines(sides[state].worker) if "were not delivered" in line]
        assert "[sluice] " in line


@pytest.mark.alone
@pytest.mark.parametrize("pool", ["prefork", "gevent", "eventlet"])
@pytest.mark.parametrize(
    "signals", [(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)], ids=["SIGQUIT", "SIGINT twice"]
)
def test_a_cold_end(pool, signals, side_by_side, ingest):
    """With a task under way, which is given up."""
    sides = side_by_side(pool, ("without", "up", "hanging"), slow=True)
    end(sides, *signals)
    assert_ended_alike(sides)
    wait_lives(ingest, sides["up"].lives, timeout=1)
    given_up = timelines(ingest.events()).get(sides["up"].slow, Timeline(""))
    assert list(map(what, given_up.told))[:2] == ["received", "started"]


@pytest.mark.parametrize(("pool", "status"), [("prefork", 401), ("gevent", 403)])
def test_a_refused_key_is_one_line_and_nothing_else(
    pool, status, redis_broker, start_worker, client, ingest
):
    ingest.answer = Answer(status=status)
    worker = start_worker(redis_broker, pool=pool, args=QUIET, ingest_url=ingest.url, extra=FAST)
    app = client(redis_broker)
    for _ in range(20):
        app.send_task("basic.ok")
    worker.wait_line("succeeded", 20, count=20)
    line = worker.wait_line("[sluice]", 10)
    assert f"The API key was refused (the API answered {status})" in line[0]
    assert worker.stop().code == 0
    refused = [line for line in our_lines(worker) if "refused" in line]
    assert len(refused) == 1
    assert "WARNING" in refused[0]
    assert API_KEY not in worker.output(last=10_000)
    assert len(ingest.requests) <= 5, "a refused key is tried again rarely"


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_events_of_an_outage_arrive_in_order_when_it_is_over(
    pool, redis_broker, start_worker, client
):
    first = IngestServer(port=free_port())
    first.close()
    worker = start_worker(redis_broker, pool=pool, args=QUIET, ingest_url=first.url, extra=FAST)
    app = client(redis_broker)
    lives = {app.send_task("basic.ok").id: PLAIN for _ in range(30)}
    worker.wait_line("succeeded", 20, count=30)
    worker.wait_line("[sluice] Events cannot be delivered now", 15)
    with IngestServer(port=first.port) as second:
        wait_lives(second, lives, timeout=60)
        assert worker.stop().code == 0
        told = [subject(event) for event in second.events()]
    assert told[0]["state"] == "online"
    assert told[-1]["state"] == "offline"
    ids = [one["extensions"]["eventId"].split("-") for one in told]
    assert len({ring for ring, _ in ids}) == 1
    numbers = [int(number) for _, number in ids]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert sum("cannot be delivered" in line for line in our_lines(worker)) == 1
