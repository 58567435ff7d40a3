"""Every kind of task, in every pool, on both brokers: one complete timeline per id.

Each `run` is one real worker that was sent everything at once and has stopped; the tests read what
arrived. `python -m pytest tests/pools/test_lifecycle.py` ends with the table of it.
"""

import re
import statistics
from itertools import pairwise

import psutil
import pytest

from tests.harness import CONNECTION_ID, wait_for
from tests.pools.plan import ENDS, ETA, LATER, SLOW
from tests.pools.run import APP, MALFORMED, NOT_A_TASK, QUEUES, UNREADABLE, Journal
from tests.pools.timeline import TOLERANCE, Timeline, at, event_id, timelines, unix, what

#: Seconds for which a busy machine may hold a process up.
BUSY = 5.0
#: In Celery's line about a child that died.
PID = re.compile(r"pid:(\d+) exited with 'signal")


def test_every_task_has_one_complete_timeline(run):
    faults = {
        f"{one.kind.name} {one.task_id}": found
        for one in run.sent
        if (found := run.line(one.task_id).faults(one.kind.attempts))
    }
    assert faults == {}


def test_every_task_that_a_task_sent_has_one_too(run):
    for one in run.sent:
        if one.kind.children:
            children = run.children(one.task_id)
            names = sorted(event["job"]["name"] for line in children for event in line.sent)
            assert names == sorted(one.kind.children), one.kind.name
            for line in children:
                assert line.faults(("received started succeeded",)) == [], one.kind.name


def test_a_message_that_is_no_task_is_told_of(run):
    malformed = run.line(run.invalid[MALFORMED])
    assert malformed.faults(("rejected",), sent=False) == []
    assert malformed.told[0]["job"]["name"] == "basic.ok"
    stranger = run.line(run.invalid[NOT_A_TASK])
    assert stranger.faults(("rejected",), sent=False) == []
    assert stranger.told[0]["job"]["name"] == "unknown"
    unreadable = run.line(run.invalid[UNREADABLE])
    assert unreadable.faults(("rejected",), sent=False) == []
    assert unreadable.told[0]["job"]["name"] == "basic.ok"
    assert unreadable.told[0]["job"]["error"] == "DecodeError: the message could not be decoded"
    for line in (malformed, stranger, unreadable):
        assert line.told[0]["job"]["queue"] == "celery"


def test_nothing_else_is_told(run):
    known = {one.task_id for one in run.sent} | set(run.invalid.values())
    children = {line.task_id for task_id in known for line in run.children(task_id)}
    assert run.by_id.keys() - known - children == set()


def test_no_event_is_delivered_twice(run):
    ids = [event_id(event) for event in run.events]
    assert len(ids) == len(set(ids))


def test_every_event_says_whose_it_is(run):
    for event in run.events:
        assert event["framework"] == "celery"
        assert event["connectionId"] == CONNECTION_ID
        assert event["type"] == ("job_state_change" if "job" in event else "worker_state_change")
    for one in run.sent:
        line = run.line(one.task_id)
        for event in line.events:
            job, name = event["job"], f"{one.kind.name}: {what(event)}"
            assert job["name"] == one.kind.task, name
            assert job["queue"] == one.kind.queue, name
            node = None if what(event) == "sent" else run.worker.nodename
            assert job.get("workerId") == node, name
            if (one.kind.name, what(event)) != ("registered late", "sent"):
                assert job.get("maxRetries") == one.kind.max_retries, name


def test_parents_and_roots(run):
    for one in run.sent:
        for event in run.line(one.task_id).events:
            if event["job"]["attempt"] == 1:
                assert event["job"]["rootId"] == one.task_id, one.kind.name
                assert "parentId" not in event["job"], one.kind.name
        if one.kind.name.startswith("sends by") or one.kind.name == "sends a group":
            for line in run.children(one.task_id):
                for event in line.events:
                    assert event["job"]["parentId"] == one.task_id, one.kind.name
        if one.kind.name == "sends a chain":
            links = sorted(run.children(one.task_id), key=lambda line: at(line.sent[0]))
            ids = [one.task_id, *(line.task_id for line in links)]
            for line, parent in zip(links, ids, strict=False):
                assert {event["job"]["parentId"] for event in line.events} == {parent}
        if one.kind.name == "sends a chord":
            (body,) = [
                line
                for line in run.children(one.task_id)
                if line.sent[0]["job"]["name"] == "basic.no_result"
            ]
            header = {line.task_id for line in run.children(one.task_id)} - {body.task_id}
            assert {event["job"]["parentId"] for event in body.events} <= header


def test_a_task_is_sent_when_it_was_sent(run):
    for one in run.sent:
        (sent,) = run.line(one.task_id).sent_of(1)
        assert one.before <= at(sent) <= one.after, one.kind.name


def test_a_task_starts_and_ends_when_it_did(run):
    """`startedAt` and `completedAt` are the times of the task's own process.

    One may be late by as much as the machine held that process up between the two.
    """
    late = []
    for line in run.by_id.values():
        for number in {event["job"]["attempt"] for event in line.told}:
            key = line.task_id, number - 1
            starts = [event for event in line.attempt(number) if what(event) == "started"]
            real = run.journal.start.get(key, [])
            real = real[max(0, len(real) - len(starts)) :]  # the others are the test's of the pids
            for event, start in zip(starts, real, strict=True):
                late.append(abs(unix(event["job"]["startedAt"]) - start))
            ends = [e for e in line.attempt(number) if what(e) in ("succeeded", "ignored")]
            for event, end in zip(ends, run.journal.end.get(key, [])[-1:], strict=bool(ends)):
                late.append(abs(unix(event["job"]["completedAt"]) - end))
    assert len(late) >= 30
    assert statistics.median(late) < 0.1
    assert max(late) < BUSY


def test_the_run_time_is_between_the_two(run):
    for line in run.by_id.values():
        for event in line.told:
            if what(event) == "succeeded":
                job = event["job"]
                took = unix(job["completedAt"]) - unix(job["startedAt"])
                assert abs(took - job["extensions"]["runtime"]) < 0.001, line
    slow = run.of("slow").end["job"]
    assert SLOW <= slow["extensions"]["runtime"] < SLOW + BUSY


def test_a_limit_ends_a_task_when_it_did(run):
    for name in ("hard time limit", "soft time limit", "soft time limit, survived"):
        if any(one.kind.name == name for one in run.sent):
            job = run.of(name).end["job"]
            took = unix(job["completedAt"]) - unix(job["startedAt"])
            assert 0.9 < took < 1.0 + BUSY, name


def test_an_eta_is_told_and_kept(run):
    for name, countdown in (("ETA", ETA), ("expired", LATER), ("revoked with ETA", LATER)):
        line = run.of(name)
        times = {event["job"]["scheduledFor"] for event in line.events}
        assert len(times) == 1, name
        eta = unix(times.pop())
        assert abs(eta - at(line.sent[0]) - countdown) < TOLERANCE, name
        assert line.told[0]["job"]["state"] == "scheduled", name
        # Celery's timers in a green pool are some milliseconds early.
        assert at(line.told[1]) > eta - 0.05, name
    started = run.of("ETA").told[1]
    if run.pool != "solo":  # it may be at another task just then
        assert at(started) - unix(started["job"]["scheduledFor"]) < BUSY
    assert not any("scheduledFor" in event["job"] for event in run.of("ok").events)


def test_errors_are_told(run):
    for one in run.sent:
        if one.kind.error:
            text, kind = one.kind.error
            end = run.line(one.task_id).end["job"]
            assert text in end["error"], one.kind.name
            assert end["extensions"].get("exceptionClass", "") == kind, one.kind.name
            if kind in ("ValueError", "ConnectionError", "MaxRetriesExceededError"):
                assert end["stacktrace"].startswith("Traceback (most recent call last)")
                assert "basic.py" in end["stacktrace"]
        else:
            for event in run.line(one.task_id).told:
                if what(event) not in ("retried", "requeued"):
                    assert "error" not in event["job"], one.kind.name
    first, second = [e for e in run.of("retry, then ok").told if what(e) == "retried"]
    assert first["job"]["error"] == second["job"]["error"] == "not there yet"


def test_how_a_task_was_revoked_is_told(run):
    for name, flags in (
        ("revoked before start", (False, False)),
        ("revoked with ETA", (False, False)),
        ("expired", (False, True)),
        ("terminated", (True, False)),
    ):
        if any(one.kind.name == name for one in run.sent):
            told = run.of(name).end["job"]["extensions"]
            assert (told["terminated"], told["expired"]) == flags, name


def test_the_pid_is_that_of_the_process_that_ran_it(run):
    """But for a child that died before MAIN had heard that it began: another gets the task then."""
    died = {int(pid) for pid in PID.findall("\n".join(run.worker.lines))}
    for line in run.by_id.values():
        for number in {event["job"]["attempt"] for event in line.told}:
            real = run.journal.pids.get((line.task_id, number - 1), [])
            told = [
                event["job"]["extensions"]["pid"]
                for event in line.attempt(number)
                if what(event) == "started"
            ]
            unheard = real[: max(0, len(real) - len(told))]
            assert told == real[len(unheard) :], line
            assert died.issuperset(unheard), line
    if run.pool != "prefork":
        assert {pid for pids in run.journal.pids.values() for pid in pids} == {run.pid}


def test_the_users_own_request_class_still_runs(run):
    task_id = run.of("custom Task.Request").task_id
    assert len(run.worker.matching(f"LoggingRequest.on_accepted {task_id}")) == 1
    for name, line in (
        ("custom Task base", "on_success"),
        ("custom Task base, fails", "on_failure"),
    ):
        assert len(run.worker.matching(f"LoggingTask.{line} {run.of(name).task_id}")) == 1


def test_the_worker_is_online_lives_and_goes_offline(run):
    told = [event["worker"] for event in run.workers]
    assert {worker["externalId"] for worker in told} == {run.worker.nodename}
    assert {worker["pid"] for worker in told} == {run.pid}
    assert {worker["hostname"] for worker in told} == {run.worker.nodename.split("@")[1]}
    states = [worker["state"] for worker in told]
    assert states[0] == "online"
    assert states[-1] == "offline"
    assert set(states[1:-1]) <= {"busy", "idle"}
    assert "busy" in states
    for worker in told:
        assert worker["queues"] == QUEUES
        assert worker["concurrency"] == {"prefork": 3, "threads": 4, "solo": 1}.get(run.pool, 20)
        assert worker["metadata"]["pool"] == run.pool
        assert worker["metadata"]["software"] == "celery"
        assert len(worker["metadata"]["loadAverage"]) == 3


def test_heartbeats_come_every_two_seconds(run):
    times = [at(event) for event in run.workers]
    beats = times[:-1]  # the end comes when it comes
    assert len(beats) >= 3
    gaps = [after - before for before, after in pairwise(beats)]
    assert 1.7 < statistics.median(gaps) < 2.3
    assert max(*gaps, times[-1] - times[-2]) < BUSY < SLOW, "also while a task takes its time"


def test_active_and_processed_tasks_are_counted(run):
    for event in run.workers:
        worker = event["worker"]
        if worker["state"] == "busy":
            assert 1 <= worker["activeJobs"] <= worker["concurrency"]
        elif worker["state"] == "idle":
            assert worker["activeJobs"] == 0
    slow = run.of("slow").told
    during = [
        event["worker"]
        for event in run.workers
        if at(slow[-2]) + 1.0 < at(event) < at(slow[-1]) - 0.1
    ]
    assert during
    assert all(worker["state"] == "busy" for worker in during)
    counts = [event["worker"]["metadata"]["processed"] for event in run.workers]
    assert counts == sorted(counts)
    assert counts[0] == 0
    started = sum(what(e) == "started" for line in run.by_id.values() for e in line.told)
    assert counts[-1] == started


def test_what_happened_first_arrives_first(run):
    """Events of one process arrive in the order in which they were captured."""
    ends = {}
    for event in run.events:
        if "job" not in event or what(event) == "sent":
            continue
        key = event["job"]["externalId"], event["job"]["attempt"]
        if what(event) in ("started", *ENDS):
            assert ends.get(key, 0.0) <= at(event), key
            ends[key] = at(event)


def test_the_worker_ends_in_order_and_leaves_nothing(run):
    assert run.exit.code == 0
    assert run.spool == []
    assert [pid for pid in run.pids if psutil.pid_exists(pid)] == []
    faults = [line for line in run.worker.lines if "[sluice]" in line]
    assert faults == []


def test_a_retried_task_is_not_its_own_parent(run):
    for event in run.of("retry, then ok").events:
        assert event["job"].get("parentId") != event["job"]["externalId"]


@pytest.mark.pool
@pytest.mark.redis
def test_times_are_those_of_the_task_also_when_main_learns_of_it_late(
    redis_broker, start_worker, client, ingest
):
    worker = start_worker(
        redis_broker, pool="prefork", concurrency=1, app=APP, ingest_url=ingest.url
    )
    app = client(redis_broker)
    app.send_task("basic.ok").get(timeout=20)
    task_id = app.send_task("life.stalls_main", (4.0,)).id
    told = "received started succeeded".split()

    def all_told():
        line = timelines(ingest.events()).get(task_id, Timeline(task_id))
        return line if [*map(what, line.told)] == told else None

    end = wait_for(all_told, 20, "the timeline").end["job"]
    journal = Journal.read(worker.lines)
    (start,), (stop,) = journal.start[task_id, 0], journal.end[task_id, 0]
    assert abs(unix(end["startedAt"]) - start) < 2.0
    assert abs(unix(end["completedAt"]) - stop) < 2.0


@pytest.mark.pool
@pytest.mark.redis
@pytest.mark.parametrize("pool", ["gevent", "eventlet", "threads"])
def test_a_requeued_task_ends_as_what_it_became(pool, redis_broker, start_worker, client, ingest):
    start_worker(redis_broker, pool=pool, app=APP, ingest_url=ingest.url)
    task_id = client(redis_broker).send_task("life.requeued_slowly").id
    told = "received started requeued received started succeeded".split()

    def all_told():
        line = timelines(ingest.events()).get(task_id, Timeline(task_id))
        return line if len(line.told) >= len(told) else None

    line = wait_for(all_told, 20, "the timeline")
    assert line.faults((" ".join(told),), sent=False) == []
