"""What Sluice must not do: run code in a child, or send anything through the broker."""

import re
from collections import Counter

import psutil
import pytest

from tests.harness import CeleryEvents, client_app, wait_for
from tests.pools.run import sender
from tests.pools.waiting import FAILS, FAST, PLAIN, wait_lives, wait_told, workers

pytestmark = pytest.mark.pool

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")


@pytest.mark.redis
def test_no_code_of_ours_runs_in_a_child_for_a_task_that_sends_none(
    redis_broker, start_worker, client, ingest
):
    start_worker(
        redis_broker,
        pool="prefork",
        concurrency=1,
        app="tests.pools.apps.probe",
        ingest_url=ingest.url,
        extra=FAST,
    )
    app = client(redis_broker)

    def calls():
        return app.send_task("probe.calls").get(timeout=20)

    calls()
    names = (
        *("basic.ok", "basic.fail", "basic.ignored", "basic.rejected", "basic.acks_late"),
        *("basic.no_result", "basic.rate_limited", "basic.custom_base", "basic.custom_request"),
        "basic.late",
    )
    tasks = [app.send_task(name).id for name in names]
    tasks.append(app.send_task("basic.slow", (2.2,)).id)  # the sender's thread of MAIN is busy too
    tasks.append(app.send_task("basic.soft_limit", (60,), {"survive": True}).id)
    assert calls() == []
    wait_told(ingest, dict.fromkeys(tasks, ("received started ended",)))

    # The probe does see what it looks for.
    app.send_task("basic.sends_others", (2,)).get(timeout=20)
    seen = Counter(calls())
    assert seen["capture/producer.py:after_publish"] == 2
    assert seen["ring.py:append"] == 2
    assert calls() == []


@pytest.mark.redis
def test_a_child_has_no_thread_and_no_connection_of_ours(
    redis_broker, start_worker, client, ingest
):
    worker = start_worker(
        redis_broker, pool="prefork", concurrency=1, ingest_url=ingest.url, extra=FAST
    )
    app = client(redis_broker)
    parent = app.send_task("basic.sends_others", (50,))
    parent.get(timeout=20)
    wait_for(lambda: len(ingest.requests) >= 2, 10, "deliveries")
    (child,) = worker.children()
    assert child.num_threads() == 1
    assert ports(child) - {redis_broker.server.port} == set()
    # The probe sees MAIN's: the worker is the one that delivers.
    assert psutil.Process(worker.pid).num_threads() == 3, "the sender and its helper"
    assert ingest.port in ports(psutil.Process(worker.pid))


@pytest.mark.redis
def test_a_child_that_is_forked_later_has_none_either(redis_broker, start_worker, client, ingest):
    worker = start_worker(
        redis_broker,
        pool="prefork",
        concurrency=1,
        args=("--max-tasks-per-child=1",),
        ingest_url=ingest.url,
        extra=FAST,
    )
    (first,) = worker.children()
    wait_for(lambda: ingest.port in ports(psutil.Process(worker.pid)), 10, "a connection")
    client(redis_broker).send_task("basic.ok").get(timeout=20)

    def second():
        return [child for child in worker.children() if child.pid != first.pid]

    (child,) = wait_for(second, 10, "the next child")
    wait_for(lambda: len(worker.children()) == 1, 10, "the first child to end")
    assert child.num_threads() == 1
    assert ports(child) - {redis_broker.server.port} == set()


def ports(process):
    """The ports that a process is connected to."""
    return {c.raddr.port for c in process.net_connections("tcp") if c.raddr}


def same_each_time(command):
    """A command of Valkey's monitor without ids, times and process ids; their length stays."""
    command = re.sub(
        r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<a uuid of 36 characters>", command
    )
    command = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+", "<a date>", command)
    command = re.sub(r"\b\d{10}\.\d+", "<a time>", command)
    return re.sub(r"gen\d+@", "gen<a pid>@", command)


#: Commands that differ from one run to the next without Sluice as well: they set connections up,
#: wait, keep kombu's bindings fresh, or put others into a transaction.
HOUSEKEEPING = re.compile(
    r"HELLO|CLIENT|SELECT|PING|BRPOP|TIME|MULTI|EXEC|SCRIPT|EVALSHA|(?i:set|get|del) unacked_mutex"
    r"|ZRANGE unacked_index|LLEN|\w+ _kombu\.|P?(UN)?SUBSCRIBE|DEL node@\S*\.celery\.pidbox"
)


@pytest.mark.redis
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_the_broker_hears_nothing_more(pool, redis_broker, start_worker, spool_dir, ingest):
    """With Sluice in the sender and in the worker: the same commands, the same bytes in each."""
    names = ("basic.ok", "basic.fail", "basic.retry_then_ok", "basic.sends_others", "no.such.task")
    plan = [
        {"kind": n, "gate": ".", "task": n, "args": [], "kwargs": {}, "options": {}} for n in names
    ]
    ends = (
        ("basic.ok", 2, "succeeded"),
        ("basic.fail", 1, "raised"),
        ("basic.retry_then_ok", 1, "s"),
    )
    heard = []
    for init in (False, True):
        with redis_broker.server.client(redis_broker.space) as valkey:
            valkey.flushdb()
        with redis_broker.server.monitor() as commands:
            env = {"ingest_url": ingest.url, "extra": FAST, "init": init}
            worker = start_worker(redis_broker, pool=pool, name="node", args=QUIET, **env)
            env |= {"result_url": redis_broker.result_url, "spool_dir": spool_dir}
            with sender(redis_broker, plan, spool_dir, **env) as script:
                assert script.wait() == 0
            for name, count, end in ends:
                wait_for(lambda: len(ended(worker, name, end)) >= count, 20, f"{name} to end")
            wait_for(lambda: worker.matching("no.such.task"), 10, "the unknown task")
            assert worker.stop().code == 0
        heard.append(Counter(same_each_time(c) for c in commands if not HOUSEKEEPING.match(c)))
    assert heard[0] - heard[1] == heard[1] - heard[0] == Counter()
    assert sum(count for command, count in heard[1].items() if command[:5] == "LPUSH") == 7
    assert workers(ingest, "offline")


def ended(worker, name, how):
    """The lines of a worker that tell of the end of a task of this name."""
    return [line for line in worker.matching(f"Task {name}[") if f"] {how}" in line]


@pytest.mark.rabbitmq
@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_the_event_exchange_of_rabbitmq_hears_nothing(pool, rabbitmq_broker, start_worker, ingest):
    with CeleryEvents(rabbitmq_broker.url) as tap, client_app(rabbitmq_broker.url) as app:
        worker = start_worker(
            rabbitmq_broker, pool=pool, args=QUIET, ingest_url=ingest.url, extra=FAST
        )
        tasks = [app.send_task("basic.ok").id, app.send_task("basic.sends_others", (3,)).id]
        wait_lives(ingest, dict.fromkeys(tasks, PLAIN))
        worker.wait_line("Task basic.ok[", 10, count=8)
        assert worker.stop().code == 0
        tap.settle()
    assert [kind for kind in tap.types() if kind != "tap-marker"] == []


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ],
)
def test_no_task_event_is_published_by_a_worker_as_most_people_start_it(
    pool, kind, request, start_worker, ingest
):
    """With gossip, mingle and heartbeats, for which Celery's dispatcher is there and enabled."""
    broker = request.getfixturevalue(f"{kind}_broker")
    with CeleryEvents(broker.url) as tap, client_app(broker.url) as app:
        worker = start_worker(broker, pool=pool, ingest_url=ingest.url, extra=FAST)
        tasks = {app.send_task("basic.no_result").id: PLAIN, app.send_task("basic.fail").id: FAILS}
        tasks[app.send_task("basic.sends_others", (3,), ignore_result=True).id] = PLAIN
        wait_lives(ingest, tasks)
        wait_for(lambda: "worker-online" in tap.types(), 10, "the tap to hear the worker itself")
        assert worker.stop().code == 0
        tap.settle()
    assert tap.types("task-") == []
