"""The harness works by itself: with Sluice out of the picture, every pool runs on every broker."""

import gc
import os
import signal

import celery.exceptions
import psutil
import pytest

from tests.harness import CeleryEvents, RabbitMQ, Valkey, client_app, environment, wait_for


def test_a_task_runs_in_every_pool_on_every_broker(pool, broker, start_worker, client):
    worker = start_worker(broker, pool=pool, init=False)
    result = client(broker).send_task("basic.ok", ("answer",))

    assert result.get(timeout=20) == "answer"
    worker.wait_line(f"Task basic.ok[{result.id}] succeeded", 10)

    children = worker.children()
    assert len(children) >= 2 if pool == "prefork" else True
    end = worker.stop()
    assert end.code == 0
    assert end.seconds < 15
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    assert "Traceback" not in worker.output()


@pytest.mark.pool
@pytest.mark.redis
def test_the_tap_and_the_monitor_see_what_reaches_the_broker(redis_broker, start_worker, client):
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    server = redis_broker.server
    app = client(redis_broker)
    with CeleryEvents(redis_broker.url) as tap, server.monitor() as commands:
        worker = start_worker(redis_broker, pool="solo", init=False, args=quiet)
        app.send_task("basic.ok").get(timeout=20)
        tap.settle()
        assert tap.types("task-") == []
        worker.stop()

        start_worker(redis_broker, pool="solo", init=False, args=("-E", *quiet))
        app.send_task("basic.ok").get(timeout=20)
        wait_for(lambda: "task-succeeded" in tap.types(), 10, "Celery's own events")
    assert tap.types("task-")[:3] == ["task-received", "task-started", "task-succeeded"]
    assert sum(c.startswith("LPUSH celery ") for c in commands) == 2


@pytest.mark.pool
@pytest.mark.rabbitmq
def test_the_tap_works_on_rabbitmq(rabbitmq_broker, start_worker, client):
    with CeleryEvents(rabbitmq_broker.url) as tap:
        start_worker(rabbitmq_broker, pool="solo", init=False, args=("-E",))
        client(rabbitmq_broker).send_task("basic.ok").get(timeout=20)
        wait_for(lambda: "task-succeeded" in tap.types(), 10, "Celery's own events")


def test_a_queue_is_counted_and_is_empty_for_the_next_test(broker, client):
    assert broker.queue_length() == 0
    client(broker).send_task("basic.ok")
    wait_for(lambda: broker.queue_length() == 1, 5, "the message to be in the queue")


@pytest.mark.redis
def test_a_result_that_never_came_opens_no_connection_later(redis_broker):
    with client_app(redis_broker.url, redis_broker.result_url) as app:
        result = app.send_task("basic.ok")
        with pytest.raises(celery.exceptions.TimeoutError):
            result.get(timeout=0.1)
    with redis_broker.server.monitor() as commands:
        del result
        gc.collect()
    assert commands == []


@pytest.mark.pool
def test_a_worker_survives_the_loss_of_its_connections(broker, start_worker, client):
    worker = start_worker(broker, pool="solo", init=False)
    broker.drop_connections()
    worker.wait_line("Connection to broker lost", 20)
    result = client(broker).send_task("basic.ok", (1,))
    assert result.get(timeout=30) == 1


@pytest.mark.pool
@pytest.mark.redis
def test_cold_stop_and_kill_leave_no_process(redis_broker, start_worker):
    worker = start_worker(redis_broker, pool="prefork", init=False)
    family = [psutil.Process(worker.pid), *worker.children()]
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    worker.kill()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.redis
def test_valkey_restarts_empty_on_its_port():
    server = Valkey()
    server.start()
    with server.client() as client:
        client.set("key", "value")
    server.restart()
    with server.client() as client:
        assert client.get("key") is None
    assert server.command_calls()["get"] == 1
    server.stop()


@pytest.mark.rabbitmq
def test_rabbitmq_leaves_nothing_behind(rabbitmq):
    del rabbitmq  # asked for so that a missing server is told once, in one place
    server = RabbitMQ()
    server.start()
    family = [psutil.Process(p.pid) for p in (server._node, server._epmd)]
    family += [child for process in family for child in process.children(recursive=True)]
    server.close()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert not server._dir.exists()


def test_the_environment_of_a_worker_is_its_own(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("SLUICE_DEBUG", "1")
    env = environment("memory://", extra={"SLUICE_STRICT": "0", "SLUICE_API_KEY": None})
    assert not {"HTTPS_PROXY", "SLUICE_DEBUG", "SLUICE_API_KEY"} & env.keys()
    assert env["SLUICE_STRICT"] == "0"


@pytest.mark.xdist_group("one process")
def test_what_belongs_together_runs_in_one_process(request):
    """A version of pytest that xdist does not know yet runs them anywhere, and says nothing."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        pytest.skip("there is one process")
    assert request.node.nodeid.endswith("@one process")


def test_a_wait_that_fails_says_what_for():
    with pytest.raises(AssertionError, match=r"waited 0\.05 s for the moon; last seen: \[\]"):
        wait_for(list, 0.05, "the moon")
