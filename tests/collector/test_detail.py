"""``GET /api/jobs/ID``: attempts, family, events; by what came, in whatever order it came."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from sluice.collector.detail import attempts
from tests.collector.wire import Wire, decoded, job, stamp, worker

AT = 1_760_000_000.0


def shown(one, task: str) -> Wire:
    answer = one.get(f"/api/jobs/{task}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def iso(at: float) -> str:
    return stamp(at).replace("Z", ".000Z")


# --- one task -------------------------------------------------------------------------------------


def test_the_whole_error_and_traceback_of_a_failure(one):
    fields: dict[str, Any] = {"error": "E" * 10_000, "stacktrace": "T" * 50_000}
    one.post_events(
        [
            job("a", "active", AT, startedAt=AT),
            job(
                *("a", "failed", AT + 1),
                **{"completedAt": AT + 1} | fields,
                extensions={"exceptionClass": "ValueError"},
            ),
        ]
    )
    found = shown(one, "a")
    assert (found["error"], found["stacktrace"]) == ("E" * 10_000, "T" * 50_000)
    assert (found["exception"], found["retries"]) == ("ValueError", 0)
    assert len(one.get("/api/jobs").json()["jobs"][0]["error"]) == 300


def test_a_task_that_recovered_has_no_error_but_its_first_attempt_has(one):
    one.post_events(
        [
            job("a", "queued", AT),
            job("a", "active", AT + 1, startedAt=AT + 1, workerId="w1@h"),
            job(
                *("a", "retrying", AT + 2),
                completedAt=AT + 2,
                error="first",
                stacktrace="T",
                workerId="w1@h",
                extensions={"exceptionClass": "KeyError"},
            ),
            job("a", "scheduled", AT + 2, attempt=2, scheduledFor=AT + 10),
            job("a", "active", AT + 11, attempt=2, startedAt=AT + 11, workerId="w2@h"),
            job(
                *("a", "completed", AT + 14),
                attempt=2,
                startedAt=AT + 11,
                completedAt=AT + 14,
                workerId="w2@h",
            ),
        ]
    )
    found = shown(one, "a")
    assert (found["error"], found["stacktrace"], found["retries"]) == (None, None, 1)
    assert found["attempts"] == [
        {
            "attempt": 1,
            "state": "retrying",
            "worker": "w1@h",
            "scheduledFor": None,
            "queuedAt": iso(AT),
            "startedAt": iso(AT + 1),
            "endedAt": iso(AT + 2),
            "wait": 1.0,
            "run": 1.0,
            "error": "first",
            "exception": "KeyError",
            "stacktrace": "T",
        },
        {
            "attempt": 2,
            "state": "completed",
            "worker": "w2@h",
            "queuedAt": iso(AT + 2),
            "scheduledFor": iso(AT + 10),
            "startedAt": iso(AT + 11),
            "endedAt": iso(AT + 14),
            "wait": 1.0,
            "run": 3.0,
            "error": None,
            "exception": None,
            "stacktrace": None,
        },
    ]


def test_attempts_do_not_depend_on_the_order_of_arrival(one):
    events = []
    for attempt in (1, 2, 3):
        start = AT + attempt * 10
        more = {"attempt": attempt, "workerId": "w@h"}
        events.append(job("a", "queued", start, **more))
        events.append(job("a", "active", start + 1, startedAt=start + 1, **more))
        state = "failed" if attempt == 3 else "retrying"
        events.append(job("a", state, start + 2, completedAt=start + 2, error="e", **more))
    expected = attempts([decoded(event) for event in events])
    assert [one["state"] for one in expected] == ["retrying", "retrying", "failed"]
    random.Random(5).shuffle(events)
    one.post_events(events)
    assert shown(one, "a")["attempts"] == expected


def test_an_exception_class_that_is_no_text_is_none(one):
    one.post_events([job("a", "failed", AT, completedAt=AT, extensions={"exceptionClass": 2**70})])
    found = shown(one, "a")
    assert (found["exception"], found["attempts"][0]["exception"]) == (None, None)


def test_a_task_that_was_given_back_runs_again_in_the_same_attempt():
    told = [
        decoded(job("a", "active", AT, startedAt=AT, workerId="w1@h")),
        decoded(job("a", "retrying", AT + 1)),
        decoded(job("a", "active", AT + 5, startedAt=AT + 5, workerId="w2@h")),
    ]
    (found,) = attempts(told)
    assert (found["state"], found["worker"], found["endedAt"]) == ("active", "w2@h", None)


def test_an_attempt_that_ended_stays_ended_whatever_is_told_later():
    told = [
        decoded(job("a", "active", AT, startedAt=AT)),
        decoded(job("a", "completed", AT + 1, completedAt=AT + 1)),
        decoded(job("a", "active", AT + 2, startedAt=AT)),
    ]
    (found,) = attempts(told)
    assert (found["state"], found["endedAt"], found["run"]) == ("completed", iso(AT + 1), 1.0)


# --- events ---------------------------------------------------------------------------------------


def test_events_are_in_order_of_time_and_as_they_were_sent(one):
    events = [job("a", "queued", AT + n, extensions={"n": n}) for n in range(5)]
    one.post_events(events[::-1])
    found = shown(one, "a")["events"]
    assert [kept["event"] for kept in found] == events
    assert {kept["receivedAt"][:4] for kept in found} == {time.strftime("%Y", time.gmtime())}


def test_of_very_many_events_the_last_thousand_are_shown(one):
    for part in range(3):
        one.post_events([job("a", "active", AT + part * 500 + n) for n in range(500)])
    found = shown(one, "a")["events"]
    assert len(found) == 1000
    assert found[0]["event"]["timestamp"] == stamp(AT + 500)
    assert found[-1]["event"]["timestamp"] == stamp(AT + 1499)


# --- badges ---------------------------------------------------------------------------------------


def test_the_badges_are_those_of_the_list(one):
    now = time.time()
    one.post_events(
        [
            worker("w@h", "offline", now - 1, extensions={"reason": "killed"}),
            *(job("a", "active", now + n, workerId=f"w{n}@h", startedAt=now + n) for n in (1, 2)),
        ]
    )
    (row,) = one.get("/api/jobs").json()["jobs"]
    assert shown(one, "a")["badges"] == row["badges"] == ["duplicate"]


# --- family ---------------------------------------------------------------------------------------


def member(task: str, parent: str | None = None, root: str | None = None, at: float = AT) -> Wire:
    return job(task, "queued", at, parentId=parent, rootId=root)


def family(one, task: str) -> list[str]:
    return [relative["id"] for relative in shown(one, task)["family"]]


def test_a_chain_is_shown_from_each_of_its_tasks(one):
    chain = [
        member("a", None, "a", AT),
        member("b", "a", "a", AT + 1),
        member("c", "b", "a", AT + 2),
    ]
    one.post_events([*chain, member("stranger", None, "stranger", AT)])
    for task in "abc":
        assert family(one, task) == ["a", "b", "c"]
    relative = shown(one, "b")["family"][1]
    assert relative == {
        "id": "b",
        "name": "orders.charge",
        "state": "queued",
        "parentId": "a",
        "startedAt": None,
        "completedAt": None,
    }


def test_children_are_shown_also_without_a_root(one):
    one.post_events([member("a"), member("b", "a", at=AT + 1), member("c", "a", at=AT + 2)])
    assert family(one, "a") == ["a", "b", "c"]
    assert family(one, "b") == ["a", "b", "c"], "its siblings too"


def test_siblings_are_shown_also_without_a_root(one):
    one.post_events([member("b", "a"), member("c", "a", at=AT + 1), member("d", None)])
    assert family(one, "c") == ["b", "c"]


def test_ancestors_are_followed_without_a_root(one):
    one.post_events([member(f"{n:02}", f"{n - 1:02}" if n else None, at=AT + n) for n in range(40)])
    assert family(one, "39") == [f"{n:02}" for n in range(40)]


def test_an_ancestor_that_nobody_heard_of_ends_the_line(one):
    one.post_events([member("b", "unknown", "gone")])
    assert family(one, "b") == ["b"]


@pytest.mark.parametrize("root", [None, "a"])
def test_parents_in_a_circle_end(one, root):
    one.post_events([member("a", "c", root), member("b", "a", root), member("c", "b", root)])
    for task in "abc":
        assert sorted(family(one, task)) == ["a", "b", "c"]


def test_a_task_that_is_its_own_parent_is_shown_once(one):
    one.post_events([member("a", "a", "a")])
    assert family(one, "a") == ["a"]


def test_of_a_large_family_itself_and_its_ancestors_are_always_shown(one):
    one.post_events([member("root", None, "root")])
    one.post_events([member(f"c{n:03}", "root", "root", AT + n) for n in range(1, 300)])
    one.post_events([member("late", "c299", "root", AT + 400)])
    one.post_events(
        [member("last", "late", "root", AT + 401), member("leaf", "last", "root", AT + 402)]
    )
    found = family(one, "last")
    assert len(found) == len(set(found)) == 200
    assert {"root", "c299", "late", "last", "leaf"} <= set(found)
