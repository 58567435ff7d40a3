"""What is seen at a glance: now, failures, names, queues, workers."""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import Any

import pytest

from sluice.collector import application, summary
from tests.collector.wire import Wire, job, queue, worker
from tests.harness import wait_for


def ended(task: str, at: float, wait: float = 1.0, run: float = 1.0, **fields: Any) -> list[Wire]:
    """A task that ended at this time, after it waited and ran so many seconds."""
    start = at - run
    fields = {"state": "completed"} | fields
    state, extensions = fields.pop("state"), fields.pop("extensions", {})
    return [
        job(task, "queued", start - wait, **fields),
        job(task, "active", start, startedAt=start, **fields),
        job(
            *(task, state, at),
            **{"startedAt": start, "completedAt": at} | fields,
            extensions=extensions,
        ),
    ]


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# --- now ------------------------------------------------------------------------------------------


def test_now_of_nothing(collector):
    one = collector(max_tasks=7, max_bytes=2_000_000, max_age=60.0)
    found = one.get("/api/now").json()
    assert (found["counts"], found["pruned"], found["dropped"], found["lost"]) == ({}, 0, 0, 0)
    assert found["diagnosis"] == "nothing"
    assert found["kept"] == {
        "tasks": 0,
        "events": 0,
        "bytes": 0,
        "maxTasks": 7,
        "maxBytes": 2_000_000,
        "maxAge": 60.0,
    }
    assert len(found["series"]) == 60
    silent = dict.fromkeys(("waitP50", "waitP95", "runP50", "runP95"))
    for slot in found["series"]:
        at = slot.pop("at")
        assert slot == {"ended": 0, "failed": 0, "retried": 0, **silent}
        assert seconds(at) % 5 == 0
    assert found["last"] == {"throughput": 0.0, "failureRate": None, **silent}
    heard = found["heard"]
    since = heard.pop("since")
    assert abs(time.time() - seconds(since)) < 60
    counted = dict.fromkeys(("requests", "events", "duplicates", "invalid", "refusedKeys"), 0)
    assert heard == {**counted, "lastRefusedAt": None, "lastEventAt": None}


def test_now_counts_states_and_what_was_heard(one):
    now = time.time()
    events = [
        *(job(f"q{n}", "queued", now) for n in range(3)),
        *(job(f"a{n}", "active", now, extensions={"droppedEvents": 4}) for n in range(2)),
        *ended("f", now, state="failed"),
    ]
    one.post_events(events)
    one.post_events([*events, job("bad", "flying")])
    found = wait_for(
        lambda: (told := one.get("/api/now").json())["heard"]["invalid"] and told,
        what="the refused event to be counted",
    )
    assert found["counts"] == {"queued": 3, "active": 2, "failed": 1}
    assert found["dropped"] == 8
    assert found["kept"]["tasks"] == 6
    assert found["kept"]["events"] == 8
    assert found["kept"]["bytes"] > 1000
    heard = found["heard"]
    assert (heard["requests"], heard["events"]) == (2, 8)
    assert (heard["duplicates"], heard["invalid"]) == (8, 1)
    assert found["diagnosis"] == "ok"


def test_the_series_puts_each_end_into_its_five_seconds(one):
    now = time.time()
    base = now - now % 5 - 50
    events = [
        *ended("a", base + 0.5, run=1, wait=2),
        *ended("b", base + 4.5, run=1, wait=2, state="failed"),
        *ended("c", base + 5.5, run=4, wait=2, attempt=3),
        *ended("old", base - 1000),
    ]
    one.post_events(events)
    found = one.get("/api/now").json()
    slots = {seconds(slot["at"]): slot for slot in found["series"]}
    first, second = slots[base], slots[base + 5]
    assert (first["ended"], first["failed"], first["retried"]) == (2, 1, 0)
    assert (second["ended"], second["failed"], second["retried"]) == (1, 0, 2)
    assert sum(slot["ended"] for slot in found["series"]) == 3
    assert first["runP50"] == pytest.approx(1, rel=0.05)
    assert second["runP50"] == pytest.approx(4, rel=0.05)
    assert first["waitP95"] == pytest.approx(2, rel=0.05)
    assert found["last"]["throughput"] == pytest.approx(3 / 60, abs=0.001)
    assert found["last"]["failureRate"] == pytest.approx(1 / 3)
    ats = [seconds(slot["at"]) for slot in found["series"]]
    assert ats == [ats[0] + 5 * n for n in range(60)], "oldest first, without a gap"


def test_percentiles_are_within_five_percent(one):
    now = time.time()
    runs = [0.001 * 1.13**n for n in range(80)]
    waits = [0.5 + n / 7 for n in range(80)]
    events = [
        event
        for n in range(80)
        for event in ended(f"t{n}", now - 1, run=runs[n], wait=waits[(n * 37) % 80])
    ]
    one.post_events(events)
    (name,) = one.get("/api/names").json()["names"]
    for values, kind in ((runs, "run"), (waits, "wait")):
        for share in (50, 95):
            true = sorted(values)[math.ceil(80 * share / 100) - 1]
            assert name[f"{kind}P{share}"] == pytest.approx(true, rel=0.05)
            assert one.get("/api/now").json()["last"][f"{kind}P{share}"] == pytest.approx(
                true, rel=0.05
            )


@pytest.mark.parametrize(
    ("events", "key", "diagnosis"),
    [
        ([], None, "nothing"),
        ([worker("w@h", "online")], None, "no_tasks"),
        ([job("a", "queued")], None, "ok"),
        ([], "wrong", "key_rejected"),
        ([worker("w@h", "online")], "wrong", "key_rejected"),
        ([job("a", "queued")], "wrong", "ok"),
    ],
)
def test_an_empty_page_says_why(one, events, key, diagnosis):
    if events:
        one.post_events(events)
    if key is not None:
        one.post_events([], key=key)
    wait_for(
        lambda: (
            (now := one.get("/api/now").json())["heard"]["refusedKeys"] == (key is not None)
            and now["diagnosis"] == diagnosis
        ),
        what=lambda: f"{diagnosis}, not {one.get('/api/now').json()['diagnosis']}",
    )


def test_what_was_pruned_is_counted(collector, monkeypatch):
    monkeypatch.setattr(application, "_NOW_AND_THEN", 0.05)
    one = collector(max_tasks=10)
    one.post_events([job(f"t{n}", "completed", completedAt=time.time()) for n in range(50)])
    found = wait_for(
        lambda: (now := one.get("/api/now").json())["pruned"] == 40 and now, 15, "the pruning"
    )
    assert found["kept"]["tasks"] == 10
    assert found["kept"]["events"] == 10
    assert found["counts"] == {"completed": 10}


# --- failures -------------------------------------------------------------------------------------


def failed(task: str, at: float, name: str, exception: str | None, error: str = "e") -> list[Wire]:
    extensions = {} if exception is None else {"exceptionClass": exception}
    return ended(task, at, name=name, state="failed", error=error, extensions=extensions)


def test_failures_are_grouped_by_name_and_exception(one):
    now = time.time()
    one.post_events(
        [
            *failed("a", now - 2300, "mails.send", "KeyError", "first"),
            *failed("b", now - 20, "mails.send", "KeyError", "x" * 400),
            *failed("c", now - 30, "mails.send", "ValueError"),
            *failed("d", now - 40, "orders.charge", "KeyError"),
            *failed("e", now - 50, "orders.charge", None),
            *ended("fine", now - 5, name="mails.send"),
        ]
    )
    found = one.get("/api/failures").json()
    groups = found["failures"]
    assert [(one["name"], one["exception"], one["count"]) for one in groups] == [
        ("mails.send", "KeyError", 2),
        ("mails.send", "ValueError", 1),
        ("orders.charge", "KeyError", 1),
        ("orders.charge", None, 1),
    ], "the latest first"
    first = groups[0]
    assert (first["jobId"], first["error"]) == ("b", "x" * 300)
    assert seconds(first["firstAt"]) == pytest.approx(now - 2300, abs=0.01)
    assert seconds(first["lastAt"]) == pytest.approx(now - 20, abs=0.01)
    assert len(first["spark"]) == 24
    assert (first["spark"][0], first["spark"][-1], sum(first["spark"])) == (1, 1, 2)
    assert found["sparkSeconds"] == pytest.approx(2300 / 24, rel=0.01)


def test_without_failures_there_are_none(one):
    one.post_events([job("a", "queued")])
    assert one.get("/api/failures").json()["failures"] == []


def test_failures_at_one_moment_name_a_task_of_their_own_group(one):
    now = time.time()
    one.post_events([*failed("a", now, "x", "A", "of x"), *failed("b", now, "y", "B", "of y")])
    groups = one.get("/api/failures").json()["failures"]
    assert {(one["jobId"], one["error"]) for one in groups} == {("a", "of x"), ("b", "of y")}


def test_times_of_another_age_are_no_fault(one):
    """The clock of a worker says what it says."""
    for task, at in (("a", -6e10), ("b", 2.5e11), ("c", time.time() + 86_400)):
        one.post_events(
            [job(task, "failed", at, completedAt=at, startedAt=at, name="n", queue="q")]
        )
    for path in ("now", "failures", "names", "queues", "workers", "jobs", "events", "export"):
        answer = one.get(f"/api/{path}")
        assert answer.status_code == 200, path
    assert sum(sum(one["spark"]) for one in one.get("/api/failures").json()["failures"]) == 3


# --- names ----------------------------------------------------------------------------------------


def test_names_with_their_counts_and_the_slowest(one):
    now = time.time()
    one.post_events(
        [
            *ended("a", now - 9, run=1, name="orders.charge"),
            *ended("b", now - 8, run=7, name="orders.charge"),
            *ended("c", now - 7, run=2, name="orders.charge", state="failed"),
            job("d", "active", now, name="orders.charge"),
            job("e", "cancelled", now, name="orders.charge"),
            *ended("f", now - 7, run=3, name="mails.send"),
            job("g", "queued", now, name="never.ran"),
        ]
    )
    charge, *others = one.get("/api/names").json()["names"]
    assert charge["name"] == "orders.charge"
    assert (charge["count"], charge["ended"], charge["failed"]) == (5, 4, 1)
    assert charge["failureRate"] == pytest.approx(0.25)
    assert (charge["slowest"], charge["slowestId"]) == (pytest.approx(7, abs=0.01), "b")
    by_name = {one["name"]: one for one in others}
    assert by_name["mails.send"]["slowestId"] == "f"
    silent = by_name["never.ran"]
    assert (silent["failureRate"], silent["runP95"], silent["slowest"]) == (None, None, None)


# --- queues ---------------------------------------------------------------------------------------


def test_queues_with_what_waits_runs_and_takes_from_them(one):
    now = time.time()
    one.post_events(
        [
            *(job(f"w{n}", "queued", now, queue="high") for n in range(3)),
            *(
                job(f"s{n}", "scheduled", now, queue="high", scheduledFor=now + 60)
                for n in range(2)
            ),
            job("a", "active", now, queue="low"),
            *ended("done", now, queue="gone"),
            worker("w1@h", "idle", now, queues=["high", "low"]),
            worker("w2@h", "busy", now, queues=["high"]),
            worker("w3@h", "offline", now, queues=["high", "asleep"]),
            queue("high", now, depth=17, consumers=2),
            queue("snapshot", now, depth=0, consumers=0),
            job("none", "queued", now),
        ]
    )
    rows = {row["name"]: row for row in one.get("/api/queues").json()["queues"]}
    assert rows["high"] == {
        "name": "high",
        "waiting": 3,
        "scheduled": 2,
        "active": 0,
        "workers": 2,
        "depth": 17,
        "consumers": 2,
    }
    assert (rows["low"]["active"], rows["low"]["workers"], rows["low"]["depth"]) == (1, 1, None)
    assert (rows["snapshot"]["depth"], rows["snapshot"]["consumers"]) == (0, 0)
    assert list(rows) == sorted(rows)
    assert "asleep" not in rows


def test_the_latest_snapshot_of_a_queue_counts(one):
    one.post_events([queue("q", 2000.0, depth=2), queue("q", 1000.0, depth=1)])
    one.post_events([queue("q", 1500.0, depth=3)])
    (row,) = one.get("/api/queues").json()["queues"]
    assert row["depth"] == 2


# --- workers --------------------------------------------------------------------------------------


def test_a_worker_with_all_it_says(one):
    now = time.time()
    metadata = {
        "pool": "prefork",
        "software": "celery",
        "version": "5.5.0",
        "processed": 12,
        "loadAverage": [0.5, 0.25, 0.125],
        "sdkVersion": "1",
    }
    more = {"concurrency": 4, "activeJobs": 2, "queues": ["a", "b"], "metadata": metadata}
    one.post_events([worker("w@h", "online", now - 5), worker("w@h", "busy", now, **more)])
    (row,) = one.get("/api/workers").json()["workers"]
    age = row.pop("heartbeatAge")
    assert 0 <= age < 5
    assert seconds(row.pop("onlineAt")) == pytest.approx(now - 5, abs=0.01)
    assert row == {
        "id": "w@h",
        "hostname": "h",
        "pid": 7,
        "pool": "prefork",
        "state": "busy",
        "concurrency": 4,
        "active": 2,
        "processed": 12,
        "queues": ["a", "b"],
        "software": "celery",
        "version": "5.5.0",
        "loadAverage": [0.5, 0.25, 0.125],
        "offlineAt": None,
        "reason": None,
        "suspects": [],
    }


def test_a_worker_that_fell_silent_is_offline_after_six_seconds(one, monkeypatch):
    now = time.time()
    one.post_events([worker("w@h", "busy", now, activeJobs=2)])
    with one.collector._database.reading.begin() as connection:
        (row,) = summary.all_workers(connection, now + 5.5)["workers"]
        assert (row["state"], row["active"], row["reason"]) == ("busy", 2, None)
        (row,) = summary.all_workers(connection, now + 7)["workers"]
    assert (row["state"], row["active"], row["reason"]) == ("offline", 0, "silent")
    assert seconds(row["offlineAt"]) == pytest.approx(now, abs=0.01), "when it was last heard of"
    one.post_events([worker("w@h", "busy", now + 8)])
    (row,) = one.get("/api/workers").json()["workers"]
    assert (row["state"], row["reason"], row["offlineAt"]) == ("busy", None, None)


def test_a_worker_that_ended_says_why_and_what_it_had(one):
    now = time.time()
    suspects = [{"externalId": "a", "name": "orders.charge", "attempt": 2, "runtime": 1.5}]
    one.post_events(
        [
            worker("calm@h", "offline", now),
            worker("idle@h", "idle", now),
            worker("dead@h", "busy", now - 1, concurrency=3),
            worker(
                *("dead@h", "offline", now),
                extensions={"reason": "killed", "activeTasks": suspects},
            ),
        ]
    )
    idle, calm, dead = one.get("/api/workers").json()["workers"]
    assert [idle["id"], calm["id"], dead["id"]] == ["idle@h", "calm@h", "dead@h"], "gone ones last"
    assert (calm["state"], calm["reason"], calm["suspects"]) == ("offline", None, [])
    assert (dead["state"], dead["reason"], dead["concurrency"]) == ("offline", "killed", 3)
    assert dead["suspects"] == [{"id": "a", "name": "orders.charge", "attempt": 2, "runtime": 1.5}]
    assert seconds(dead["offlineAt"]) == pytest.approx(now, abs=0.01)


def test_what_a_worker_says_of_itself_may_be_anything(one):
    wild = {"pool": 2**70, "processed": "many", "loadAverage": [], "version": None, "more": [1.5]}
    one.post_events(
        [
            worker(
                *("w@h", "busy"),
                metadata=wild,
                pid=2**80,
                concurrency=2**80,
                queues=["", "a", "a"],
                extensions={"activeTasks": [{}, {"externalId": 2**70}], "reason": [{}]},
            )
        ]
    )
    for path in ("workers", "queues", "now"):
        assert one.get(f"/api/{path}").status_code == 200
