"""The real SDK in real workers, to a real collector: what happened is what is shown."""

from collections.abc import Callable

import pytest

from tests.collector.conftest import Running
from tests.harness import QUIET, wait_for
from tests.pools.waiting import FAST

pytestmark = [pytest.mark.pool, pytest.mark.redis]

#: No key, no connection: the collector's URL is enough.
WITHOUT_KEY = dict.fromkeys(("SLUICE_API_KEY", "SLUICE_CONNECTION_ID", "SLUICE_API_URL"))


@pytest.fixture
def running(collector: Callable[..., Running]) -> Running:
    return collector()


def dev(running: Running) -> dict[str, str | None]:
    return {**WITHOUT_KEY, **FAST, "SLUICE_DEV": running.url}


def job(running: Running, task: str) -> dict:
    answer = running.get(f"/api/jobs/{task}")
    return answer.json() if answer.ok else {}


def wait_state(running: Running, task: str, state: str, timeout: float = 20) -> dict:
    wait_for(
        lambda: job(running, task).get("state") == state,
        timeout,
        lambda: f"{state}; it is {job(running, task).get('state')}",
    )
    return job(running, task)


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_every_kind_of_task_is_shown_as_it_went(pool, redis_broker, start_worker, client, running):
    worker = start_worker(redis_broker, pool=pool, args=QUIET, extra=dev(running))
    app = client(redis_broker)
    expected = {
        app.send_task("basic.ok").id: "completed",
        app.send_task("basic.fail").id: "failed",
        app.send_task("basic.retry_then_ok", (2,)).id: "completed",
        app.send_task("basic.ignored").id: "completed",
        app.send_task("basic.rejected").id: "failed",
        app.send_task("no.such.task").id: "failed",
        app.send_task("basic.ok", countdown=5).id: "completed",
        app.send_task("basic.ok", expires=-1).id: "cancelled",
        app.send_task("basic.canvas", ("chain",)).id: "completed",
    }
    shown = {task: wait_state(running, task, state) for task, state in expected.items()}
    _, failed, retried, _, _, unknown, later, _, canvas = shown.values()
    assert failed["exception"] == "ValueError"
    assert "it broke" in failed["error"]
    assert failed["stacktrace"].startswith("Traceback")
    assert (retried["attempt"], retried["retries"]) == (3, 2)
    assert [one["state"] for one in retried["attempts"]] == ["retrying", "retrying", "completed"]
    assert all(one["run"] is not None and one["wait"] is not None for one in retried["attempts"])
    assert later["scheduledFor"] is not None
    assert later["wait"] < 4, "what waits for its time does not wait for a worker"
    assert unknown["name"] in ("unknown", "no.such.task")
    assert {one["name"] for one in canvas["family"]} == {"basic.canvas", "basic.ok"}
    assert len(canvas["family"]) == 4
    (there,) = running.get("/api/workers").json()["workers"]
    assert (there["id"], there["pool"], there["state"]) == (worker.nodename, pool, there["state"])
    assert there["state"] in ("busy", "idle", "online")
    assert worker.stop().code == 0
    wait_for(
        lambda: running.get("/api/workers").json()["workers"][0]["state"] == "offline",
        30,
        "the worker's last word",
    )
    now = running.get("/api/now").json()
    assert (now["dropped"], now["lost"], now["heard"]["invalid"]) == (0, 0, 0)
    assert now["diagnosis"] == "ok"


def test_what_a_killed_worker_ran_is_lost_and_not_running_for_ever(
    redis_broker, start_worker, client, running, spool_dir
):
    victim = start_worker(redis_broker, args=QUIET, extra=dev(running))
    app = client(redis_broker)
    task = app.send_task("basic.slow", (120,)).id
    wait_state(running, task, "active")
    victim.kill()
    # The next process with the same folder tells of the death.
    start_worker(redis_broker, args=(*QUIET, "-Q", "other"), extra=dev(running))
    wait_state(running, task, "lost", timeout=50)
    dead = [w for w in running.get("/api/workers").json()["workers"] if w["reason"] == "killed"]
    assert [one["id"] for one in dead] == [victim.nodename]
    assert [one["id"] for one in dead[0]["suspects"]] == [task]
