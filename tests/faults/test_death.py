"""A child dies, MAIN dies: nothing that was captured is lost, and who died is told."""

import re
from collections import Counter

import psutil
import pytest

from tests.faults.ledger import event_ids
from tests.harness import QUIET, wait_for
from tests.harness.workers import NOBODY_LISTENS
from tests.pools.timeline import timelines
from tests.pools.waiting import FAST, PLAIN, wait_lives, workers

pytestmark = [pytest.mark.pool, pytest.mark.redis]
APP = "tests.faults.apps"


@pytest.mark.parametrize("pool", ["prefork", "gevent", "eventlet"])
def test_a_killed_worker_is_told_of_by_the_next_with_all_it_had_captured(
    pool, redis_broker, start_worker, client, ingest, spool_dir
):
    victim = start_worker(
        redis_broker,
        pool=pool,
        app=APP,
        name="victim",
        args=QUIET,
        ingest_url=NOBODY_LISTENS,
        extra={"SLUICE_ENVIRONMENT": "night"},
    )
    app = client(redis_broker)
    lives = {app.send_task("basic.ok").id: PLAIN for _ in range(20)}
    victim.wait_line("succeeded", 20, count=20)
    slow = app.send_task("basic.slow", (60,)).id
    again = app.send_task("faults.retry_then_sleep", (60,)).id
    wait_for(lambda: starts(spool_dir, slow) == 1, 10, "the slow task's start")
    wait_for(lambda: starts(spool_dir, again) == 2, 10, "the start of a second attempt")
    victim.kill()
    assert [path.suffix for path in sorted(spool_dir.iterdir())].count(".alive") == 1

    after = start_worker(
        redis_broker, pool=pool, args=(*QUIET, "-Q", "other"), ingest_url=ingest.url, extra=FAST
    )
    # A killed prefork worker's children hold its ring until they see that it is gone.
    wait_for(lambda: workers(ingest, "offline"), 40, "the report of the death")
    wait_lives(ingest, lives, timeout=5)
    (death,) = [w for w in workers(ingest, "offline") if w["externalId"] == victim.nodename]
    assert death["pid"] == victim.pid
    assert death["extensions"]["reason"] == "killed"
    assert death["extensions"]["environment"] == "night"
    suspects = {one["externalId"]: one for one in death["extensions"]["activeTasks"]}
    told = {task: (one["name"], one["attempt"]) for task, one in suspects.items()}
    assert told == {slow: ("basic.slow", 1), again: ("faults.retry_then_sleep", 2)}
    assert 0 <= suspects[again]["runtime"] <= suspects[slow]["runtime"] < 30
    after.wait_line(f"The worker {victim.nodename} (pid {victim.pid}) was killed", 10)
    assert after.stop().code == 0
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []


def test_what_children_had_sent_when_all_were_killed_is_told_by_the_next(
    redis_broker, start_worker, client, ingest, spool_dir, tmp_path
):
    """MAIN stands still, so that nothing of it is in a ring but the child's."""
    victim = start_worker(
        redis_broker, app=APP, concurrency=1, args=QUIET, ingest_url=NOBODY_LISTENS
    )
    told = tmp_path / "told"
    task = client(redis_broker).send_task("faults.send_when_told", (str(told), 10)).id
    wait_for(lambda: starts(spool_dir, task) == 1, 20, "the task's start")
    psutil.Process(victim.pid).suspend()
    told.touch()
    victim.wait_line("SENT", 20, count=10)
    sent = [line.rpartition("SENT ")[2] for line in victim.matching("SENT")]
    (child_ring,) = (ring for ring in spool_dir.glob("*.ring") if ring.stat().st_size < 2**20)
    assert all(one.encode() in child_ring.read_bytes() for one in sent)
    victim.kill()
    after = start_worker(
        redis_broker, args=(*QUIET, "-Q", "other"), ingest_url=ingest.url, extra=FAST
    )

    def told_of() -> dict[str, int]:
        jobs = [event["job"] for event in ingest.events() if "job" in event]
        return Counter(job["externalId"] for job in jobs if job["externalId"] in sent)

    wait_for(lambda: told_of() == dict.fromkeys(sent, 1), 40, "what the child had sent")
    assert after.stop().code == 0
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []


def starts(spool_dir, task: str) -> int:
    """How often the rings say that a task was started."""
    content = b"".join(path.read_bytes() for path in spool_dir.glob("*.ring"))
    return len(
        re.findall(rb'"externalId":"%b","name":"[^"]*","state":"active"' % task.encode(), content)
    )


def test_two_that_start_at_once_do_not_send_the_same(
    redis_broker, start_worker, client, ingest, spool_dir
):
    app = client(redis_broker)
    victims = [
        start_worker(redis_broker, pool="solo", args=QUIET, ingest_url=NOBODY_LISTENS)
        for _ in range(3)
    ]
    lives = {app.send_task("basic.ok").id: PLAIN for _ in range(60)}
    wait_for(lambda: sum(len(v.matching("succeeded")) for v in victims) == 60, 30, "60 tasks")
    for victim in victims:
        victim.kill()
    heirs = [
        start_worker(redis_broker, pool="solo", wait=False, ingest_url=ingest.url, extra=FAST)
        for _ in range(3)
    ]
    wait_lives(ingest, lives, timeout=40)
    names = {victim.nodename for victim in victims}
    wait_for(lambda: names <= {w["externalId"] for w in workers(ingest, "offline")}, 10, "3 deaths")
    for heir in heirs:
        heir.wait_ready()  # before, TERM would be the end of it at once
        assert heir.stop().code == 0
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []


#: How a child ends, and what of the worker makes it so.
DEATHS = {
    "SIGKILL": (),
    "_exit": (),
    "segfault": (),
    "hard limit": (),
    "old age": ("--max-tasks-per-child=1",),
    "too much memory": ("--max-memory-per-child=1",),
    "not needed": ("--autoscale=4,1",),
}
SURVIVED = ("old age", "too much memory", "not needed")


@pytest.mark.parametrize("how", DEATHS)
def test_what_a_dying_child_had_captured_is_delivered(
    how, redis_broker, start_worker, client, ingest, spool_dir
):
    """It is still in the child's ring when the child ends: MAIN looks every few seconds.

    Celery's autoscaler also stops a child that has been given a task and not begun it, which fails
    then: it is told to wait until all have ended.
    """
    worker = start_worker(
        redis_broker,
        app=APP,
        args=(*QUIET, *DEATHS[how]),
        ingest_url=ingest.url,
        extra={
            "SLUICE_FLUSH_INTERVAL": "10" if how == "not needed" else "2",
            "AUTOSCALE_KEEPALIVE": "4",
        },
    )
    first = {child.pid for child in worker.children()}
    app = client(redis_broker)
    limit = {"time_limit": 1} if how == "hard limit" else {}
    ids = [app.send_task("faults.send_and_die", (how, 25), **limit).id for _ in range(4)]
    end = "completed" if how in SURVIVED else "failed"

    def all_ended() -> bool:
        seen.update(child.pid for child in worker.children())
        lines = timelines(ingest.events())
        return all(i in lines and lines[i].events[-1]["job"]["state"] == end for i in ids)

    seen: set[int] = set()

    def all_dead() -> bool:
        here = {child.pid for child in worker.children()}
        seen.update(here)
        return len(here) == 1 if how == "not needed" else not first & here

    wait_for(all_ended, 40, f"{ids} to have {end}")
    wait_for(all_dead, 40, "the children to have gone")
    assert how != "not needed" or len(seen) > len(first), "there were more for a while"
    assert worker.stop().code == 0
    unread = [int(line.rpartition(" ")[2]) for line in worker.matching("unread: ")]
    assert len(unread) == 4
    assert sum(unread) >= 10, "some of them were in the rings of the children alone"
    sent = [line for line in timelines(ingest.events()).values() if line.sent and not line.told]
    assert len(sent) == 4 * 25
    assert {line.sent[0]["job"]["parentId"] for line in sent} == set(ids)
    assert set(event_ids(ingest).values()) == {1}
    assert list(spool_dir.iterdir()) == []
