"""The worker's options and the app's settings: what is told stays complete, whatever they are."""

import json
import sys
from pathlib import Path
from urllib.request import urlopen

import celery
import pytest

from tests.harness import CeleryEvents, client_app, environment, wait_for
from tests.harness.ports import free_port
from tests.pools.run import APP, sender
from tests.pools.timeline import timelines, what
from tests.pools.waiting import (
    FAILS,
    FAST,
    PATIENT,
    PLAIN,
    RETRIES_ONCE,
    wait_lives,
    wait_told,
    workers,
)

pytestmark = [pytest.mark.pool, pytest.mark.redis]

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat")
MIX = {
    "basic.ok": PLAIN,
    "basic.fail": FAILS,
    "basic.retry_then_ok": RETRIES_ONCE,
    "basic.ignored": ("received started ignored",),
    "no.such.task": ("unknown",),
}


def send_mix(app, task_names=tuple(MIX)):
    """Send one of each: task id -> its life."""
    return {app.send_task(name).id: MIX[name] for name in task_names}


def test_success_is_told_where_celery_has_no_event_dispatcher(
    pool, redis_broker, start_worker, client, ingest
):
    start_worker(redis_broker, pool=pool, args=QUIET, ingest_url=ingest.url, extra=FAST)
    wait_lives(ingest, send_mix(client(redis_broker)))


def test_what_is_not_run_because_its_result_is_there_has_ended(
    pool, redis_broker, start_worker, client, ingest
):
    """A message that comes again behind a success, of which Celery tells without a runtime."""
    conf = {"task_acks_late": True, "worker_deduplicate_successful_tasks": True}
    worker = start_worker(
        redis_broker, pool=pool, args=QUIET, ingest_url=ingest.url, extra=FAST, conf=conf
    )
    task_id = client(redis_broker).send_task("basic.ok", queue="elsewhere").id
    with redis_broker.server.client(redis_broker.space) as valkey:
        message = json.loads(valkey.rpop("elsewhere"))
        valkey.lpush("celery", json.dumps(message))
        worker.wait_line("succeeded", 20)
        message["properties"]["delivery_info"]["redelivered"] = True
        valkey.lpush("celery", json.dumps(message))
    wait_told(ingest, {task_id: PLAIN * 2})
    (line,) = timelines(ingest.events()).values()
    assert " ".join(map(what, line.told)) == " ".join(PLAIN * 2)
    assert worker.matching("succeeded in") == worker.matching(f"{task_id}] succeeded in")
    assert len(worker.matching("succeeded in")) == 1, "it was run once"


@pytest.mark.parametrize(
    ("pool", "quiet"),
    [("prefork", ()), ("gevent", QUIET), ("eventlet", ()), ("threads", QUIET), ("solo", ())],
)
def test_celerys_own_events_are_the_same_beside_sluice(
    pool, quiet, redis_broker, start_worker, ingest
):
    seen = []
    for init in (False, True):
        # The tap and the client share Celery's pool of connections: the inner one ends first.
        with CeleryEvents(redis_broker.url) as tap, client_app(redis_broker.url) as app:
            worker = start_worker(
                redis_broker,
                pool=pool,
                init=init,
                args=("-E", *quiet),
                ingest_url=ingest.url,
                extra=FAST,
            )
            lives = send_mix(app)
            # All must be over: Celery 5.7 may take 30 s to stop with a retry under way.
            ends = {"task-succeeded", "task-failed"}
            wait_for(lambda: sum(t in ends for t in tap.types()) >= 4, 20, "Celery's own events")
            worker.wait_line("] ignored", 10)
            if init:
                wait_lives(ingest, lives)
            assert worker.stop().code == 0
            tap.settle()
        seen.append(normalised(tap.events, list(lives)))
    assert seen[0] == seen[1]
    assert "task-succeeded" in str(seen[0])


def normalised(events, ids):
    """Celery's events by task, without what differs from one run to the next."""
    by_task = {}
    for event in events:
        if event["type"].startswith("task-"):
            facts = {
                key: ids.index(value) if value in ids else value
                for key, value in event.items()
                if key not in ("clock", "timestamp", "local_received", "hostname", "pid")
            }
            for key in ("runtime", "traceback", "eta"):
                facts[key] = key in facts and facts[key] is not None
            by_task.setdefault(facts.pop("uuid"), []).append(facts)
    # A retry is received again before or after it is told of: the order is not the same each time.
    return {task: sorted(told, key=json.dumps) for task, told in by_task.items()}


def test_celery_events_can_be_turned_on(redis_broker, start_worker, spool_dir, client, ingest):
    extra = FAST | {"SLUICE_CELERY_EVENTS": "1"}
    with CeleryEvents(redis_broker.url) as tap:
        worker = start_worker(
            redis_broker, pool="solo", ingest_url=ingest.url, extra=extra, args=QUIET
        )
        plan = [{"kind": "x", "gate": ".", "task": "basic.ok", "args": [], "kwargs": {}}]
        plan[0]["options"] = {}
        env = {"ingest_url": ingest.url, "spool_dir": spool_dir, "extra": extra}
        with sender(redis_broker, plan, spool_dir, **env) as script:
            assert script.wait() == 0
        expected = {"task-sent", "task-received", "task-started", "task-succeeded"}
        wait_for(lambda: expected <= set(tap.types()), 10, "Celery's own events")
    assert worker.matching("explicitly False") == []


def test_celery_events_respect_an_explicit_false(redis_broker, start_worker, client, ingest):
    with CeleryEvents(redis_broker.url) as tap:
        worker = start_worker(
            redis_broker,
            pool="solo",
            ingest_url=ingest.url,
            conf={"worker_send_task_events": False, "task_send_sent_event": False},
            extra=FAST | {"SLUICE_CELERY_EVENTS": "1"},
        )
        lives = send_mix(client(redis_broker))
        wait_lives(ingest, lives)
        worker.stop()
        tap.settle()
        assert tap.types("task-") == []
    lines = worker.matching("explicitly False")
    assert len(lines) == 2
    for setting in ("worker_send_task_events", "task_send_sent_event"):
        assert any(setting in line and "WARNING" in line for line in lines)


def test_flower_sees_its_tasks_beside_sluice(
    redis_broker, start_worker, start_process, spool_dir, client, ingest
):
    port = free_port()
    env = {"ingest_url": ingest.url, "spool_dir": spool_dir}
    worker = start_worker(
        redis_broker, pool="gevent", args=("-E",), ingest_url=ingest.url, extra=FAST
    )
    argv = [sys.executable, "-m", "celery", "-A", "tests.harness.apps.basic", "flower"]
    argv += [f"--port={port}", "--address=127.0.0.1", "--persistent=False"]
    extra = {"FLOWER_UNAUTHENTICATED_API": "true"}
    flower = start_process(argv, env=environment(redis_broker.url, extra=extra, **env))

    def ask(path):
        with urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=5) as answer:
            return json.load(answer)

    flower.wait_line("Connected to", 30)
    app = client(redis_broker)

    def listens():
        # The events of before Flower was subscribed are not kept for it by anyone.
        return app.send_task("basic.ok").id in ask("tasks") or bool(ask("tasks"))

    wait_for(listens, 20, "Flower to see a task")
    lives = send_mix(app, ("basic.ok", "basic.fail", "basic.retry_then_ok"))
    wait_lives(ingest, lives)
    ends = {PLAIN: "SUCCESS", RETRIES_ONCE: "SUCCESS", FAILS: "FAILURE"}
    expected = {task_id: ends[life] for task_id, life in lives.items()}

    def states():
        tasks = ask("tasks")
        return {task_id: tasks.get(task_id, {}).get("state") for task_id in lives} == expected

    wait_for(states, 10, "Flower to show the ends")
    assert worker.matching("[sluice]") == flower.matching("[sluice]") == []


def test_task_protocol_1(redis_broker, start_worker, spool_dir, ingest):
    conf = {"task_protocol": 1}
    env = {"ingest_url": ingest.url, "extra": FAST, "conf": conf}
    start_worker(redis_broker, pool="prefork", app=APP, **env)
    names = [name for name in MIX if name != "no.such.task"]
    plan = [
        {"kind": n, "gate": ".", "task": n, "args": [], "kwargs": {}, "options": {}} for n in names
    ]
    plan.append(plan[0] | {"kind": "eta", "options": {"countdown": 5}})
    with sender(redis_broker, plan, spool_dir, spool_dir=spool_dir, **env) as script:
        assert script.wait() == 0
        sent = [line.split() for line in script.matching("SENT ") if line.startswith("SENT")]
    lives = {task_id: MIX.get(kind, PLAIN) for _, kind, task_id, *_ in sent}
    lines = wait_lives(ingest, lives, sent=True)
    eta = lines[sent[-1][2]]
    assert eta.told[0]["job"]["state"] == "scheduled"


@pytest.mark.parametrize(
    ("options", "conf"),
    [(["-Pgevent"], {}), ([], {"worker_pool": "gevent"})],
    ids=["-Pgevent", "worker_pool"],
)
def test_a_gevent_pool_in_an_unpatched_process(
    options, conf, redis_broker, start_process, spool_dir, client, ingest
):
    """Celery patches only for `-P gevent` in two words. A worker that nobody patched takes tasks,
    runs none and does not end, Sluice or not (Celery 5.7). What it does is told."""
    argv = [sys.executable, "-m", "celery", "-A", APP, "worker", *options, "-c", "10"]
    env = environment(
        redis_broker.url,
        ingest_url=ingest.url,
        spool_dir=spool_dir,
        conf=conf,
        extra=FAST | {"SLUICE_DEBUG": "1"},
    )
    worker = start_process([*argv, "-n", "unpatched@%h", "-l", "INFO"], env=env, name="unpatched")
    worker.wait_line("ready.", 30)
    assert worker.matching("[sluice] On: neither gevent nor eventlet")
    wait_told(ingest, {client(redis_broker).send_task("basic.ok").id: ("received",)})
    wait_for(lambda: workers(ingest, "idle"), 10, "a heartbeat")
    assert {told["metadata"]["pool"] for told in workers(ingest)} == {"gevent"}
    assert worker.matching("fault") == []


def is_child(line, *parents):
    """Whether a task of one of these ids sent this one; a retry names itself."""
    return bool(line.sent) and line.sent[0]["job"].get("parentId") in parents


@pytest.fixture
def beat(redis_broker, start_worker, tmp_path, ingest):
    """A worker with beat inside, which has sent hundreds of tasks and one to this worker."""
    elsewhere = {"task": "basic.ok", "schedule": 0.5, "options": {"queue": "elsewhere"}}
    schedule = {f"entry {n}": elsewhere for n in range(150)}
    schedule["here"] = {"task": "basic.no_result", "schedule": 3.0}
    worker = start_worker(
        redis_broker,
        pool="prefork",
        args=("-B", "-s", str(tmp_path / "schedule")),
        ingest_url=ingest.url,
        conf={"beat_schedule": schedule},
        extra=FAST | PATIENT,
    )

    def sent():
        return [line for line in timelines(ingest.events()).values() if line.sent]

    wait_for(lambda: len(sent()) >= 900, 40, "what beat sends")
    here = next(line.task_id for line in sent() if line.sent[0]["job"]["name"] == "basic.no_result")
    wait_lives(ingest, {here: PLAIN}, sent=True)
    assert all(event["job"]["state"] == "queued" for line in sent() for event in line.events[:1])
    return worker


def test_beat_inside_a_worker(beat, redis_broker, client, ingest):
    """The child of `worker -B` closes every descriptor it inherited, ours too, and uses the numbers
    again. It sends enough to wake its parent's sender, which is a byte into one of them."""
    wait_lives(ingest, send_mix(client(redis_broker)))
    assert beat.stop(timeout=40).code == 0
    complaints = [line for line in beat.lines if "ERROR" in line and "beat" in line.lower()]
    assert complaints == beat.matching("[sluice]") == []


def test_beat_inside_a_worker_leaves_no_ring(beat, spool_dir):
    beat.stop(timeout=40)
    assert ring_files(spool_dir) == 0


def ring_files(folder: Path) -> int:
    return len(list(folder.glob("*.ring")))


def test_autoscale(redis_broker, start_worker, spool_dir, client, ingest):
    """Children that are forked beside a running sender send, and go without a trace."""
    worker = start_worker(
        redis_broker,
        pool="prefork",
        concurrency=1,
        args=("--autoscale=4,1", *QUIET),
        ingest_url=ingest.url,
        extra=FAST | {"AUTOSCALE_KEEPALIVE": "4"},
    )
    assert ring_files(spool_dir) == 2
    app = client(redis_broker)
    busy = [app.send_task("basic.slow", (6.0,)).id for _ in range(4)]
    wait_told(ingest, dict.fromkeys(busy, ("received started",)))
    assert ring_files(spool_dir) == 5
    wait_for(lambda: max(w["concurrency"] for w in workers(ingest)) == 4, 10, "4 in a heartbeat")
    parents = [app.send_task("basic.sends_others", (5,)).id for _ in range(8)]
    wait_lives(ingest, dict.fromkeys([*busy, *parents], PLAIN))

    def sent():
        lines = timelines(ingest.events()).values()
        return [line for line in lines if is_child(line, *parents)]

    wait_for(lambda: len(sent()) >= 40, 10, "what the children sent")
    wait_lives(ingest, {line.task_id: PLAIN for line in sent()}, sent=True)
    wait_for(lambda: len(worker.children()) == 1, 40, "the pool to shrink")
    wait_for(lambda: ring_files(spool_dir) == 2, 10, "the rings of the dead to go")
    wait_for(lambda: workers(ingest)[-1]["concurrency"] == 1, 10, "1 in a heartbeat")
    worker.stop()
    assert ring_files(spool_dir) == 0


@pytest.mark.skipif(celery.VERSION < (5, 7), reason="the start method came with Celery 5.7")
def test_children_that_are_spawned(redis_broker, start_worker, spool_dir, client, ingest):
    """They have nothing of MAIN's: one that sends tasks tells of them itself, on a thread."""
    worker = start_worker(
        redis_broker,
        pool="prefork",
        concurrency=2,
        ingest_url=ingest.url,
        conf={"worker_pool_start_method": "spawn"},
        extra=FAST,
    )
    app = client(redis_broker)
    lives = send_mix(app, ("basic.ok", "basic.fail", "basic.ignored"))
    parents = [app.send_task("basic.sends_others", (5,)).id for _ in range(4)]
    wait_lives(ingest, lives | dict.fromkeys(parents, PLAIN), timeout=40)

    def sent():
        lines = timelines(ingest.events()).values()
        return [line for line in lines if is_child(line, *parents)]

    wait_for(lambda: len(sent()) >= 20, 10, "what the children sent")
    wait_lives(ingest, {line.task_id: PLAIN for line in sent()}, sent=True)
    assert worker.stop().code == 0
    assert worker.matching("[sluice]") == []


def test_tasks_of_modules_that_a_worker_loads_later(redis_broker, start_worker, client, ingest):
    """`pool_restart` imports modules, whose tasks no worker knew when it started."""
    worker = start_worker(
        redis_broker,
        pool="solo",
        ingest_url=ingest.url,
        conf={"worker_pool_restarts": True},
        extra=FAST,
    )
    app = client(redis_broker)
    wait_lives(ingest, {app.send_task("basic.ok").id: PLAIN})
    app.control.broadcast("pool_restart", {"modules": ["tests.pools.apps.later"]})
    worker.wait_line("tests.pools.apps.later is here", 20)
    wait_lives(ingest, {app.send_task("later.ok").id: PLAIN})
    assert worker.stop().code == 0


@pytest.mark.rabbitmq
def test_a_chord_from_a_child_on_rabbitmq(
    rabbitmq_broker, redis_broker, start_worker, client, ingest
):
    """With its results in Redis: those that RabbitMQ carries cannot be counted."""
    start_worker(
        rabbitmq_broker, result_url=redis_broker.url, args=QUIET, ingest_url=ingest.url, extra=FAST
    )
    parent = client(rabbitmq_broker).send_task("basic.canvas", ("chord",)).id

    def parts():
        """What follows is sent by a child too: that which ran the last of the three."""
        lines = timelines(ingest.events()).values()
        return [line for line in lines if line.sent and line.sent[0]["job"]["rootId"] == parent]

    wait_for(lambda: len(parts()) == 4, 20, "three parts and what follows them")
    wait_lives(ingest, {parent: PLAIN})
    wait_lives(ingest, {line.task_id: PLAIN for line in parts()}, sent=True)
    names = [line.sent[0]["job"]["name"] for line in parts()]
    assert sorted(names) == ["basic.no_result"] + ["basic.ok"] * 3


def test_a_new_child_for_every_task(redis_broker, start_worker, spool_dir, client, ingest):
    worker = start_worker(
        redis_broker,
        pool="prefork",
        concurrency=2,
        args=("--max-tasks-per-child=1",),
        ingest_url=ingest.url,
        extra=FAST,
    )
    app = client(redis_broker)
    parents = [app.send_task("basic.sends_others", (2,)).id for _ in range(4)]
    wait_lives(ingest, dict.fromkeys(parents, PLAIN), timeout=40)

    def sent():
        lines = timelines(ingest.events()).values()
        return [line for line in lines if is_child(line, *parents)]

    wait_for(lambda: len(sent()) >= 8, 10, "what the children sent")
    lines = wait_lives(ingest, {line.task_id: PLAIN for line in sent()}, sent=True, timeout=60)
    pids = {
        event["job"]["extensions"]["pid"]
        for line in lines.values()
        for event in line.told
        if what(event) == "started"
    }
    assert len(pids) == 4 + 8
    wait_for(lambda: ring_files(spool_dir) <= 1 + 2, 10, "the rings of the dead to go")
    worker.stop()
    assert ring_files(spool_dir) == 0
