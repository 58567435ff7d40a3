"""The demo's judgement: what makes a timeline complete, and what it says of one that is not."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from sluice.demo.ledger import SENDER, Ledger, Spread
from sluice.demo.timeline import Expectation, Moment, Step, Timeline

TASK = "7f3f6a52-7d5e-4f2c-9d8e-0d8f7a6b5c4d"
STATES = {
    "task-sent": "queued",
    "task-received": "queued",
    "task-started": "active",
    "task-retried": "retrying",
    "task-succeeded": "completed",
    "task-failed": "failed",
    "task-revoked": "cancelled",
}
PLAIN = ("task-sent", "task-received", "task-started", "task-succeeded")

_ids = count()


def iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def job(event: str, at: float, attempt: int = 1, **more: Any) -> dict[str, Any]:
    """A job event as it arrives.  All but `sent` come from the prefork worker."""
    worker = {} if event == "task-sent" else {"workerId": "demo-prefork@host"}
    return {
        "type": "job_state_change",
        "timestamp": iso(1000.0 + at),
        "job": {
            "externalId": TASK,
            "name": "orders.charge",
            "state": STATES[event],
            "attempt": attempt,
            **worker,
            "extensions": {"celeryEvent": event, "eventId": f"ring-{next(_ids)}"},
            **more,
        },
    }


def worker_event(state: str, node: str = "demo-prefork@host") -> dict[str, Any]:
    return {
        "type": "worker_state_change",
        "timestamp": iso(1000.0),
        "worker": {"externalId": node, "state": state, "extensions": {"eventId": f"w{next(_ids)}"}},
    }


def plain() -> list[dict[str, Any]]:
    """The events of a task that succeeds at once."""
    return [job(event, at / 10) for at, event in enumerate(PLAIN)]


def retried() -> list[dict[str, Any]]:
    """Two attempts as Celery reports them: attempt 2 is received before 1 is retried."""
    return [
        job("task-sent", 0.0),
        job("task-received", 0.1),
        job("task-started", 0.2),
        job("task-sent", 0.3, attempt=2),
        job("task-received", 0.4, attempt=2, state="scheduled", scheduledFor=iso(1001.0)),
        job("task-retried", 0.5),
        job("task-started", 1.1, attempt=2),
        job("task-succeeded", 1.2, attempt=2),
    ]


def expected(**more: Any) -> Expectation:
    return Expectation(TASK, "orders.charge", "prefork", **more)


def timeline(events: list[dict[str, Any]]) -> Timeline:
    moments = [Moment.of(event) for event in events]
    return Timeline("orders.charge", [moment for moment in moments if moment is not None])


def faults(events: list[dict[str, Any]], **more: Any) -> list[str]:
    return timeline(events).faults(expected(**more))


def test_complete() -> None:
    assert faults(plain()) == []


def test_complete_with_sent_delivered_last() -> None:
    sent, *rest = plain()
    assert faults([*rest, sent]) == []


@pytest.mark.parametrize("at", range(4))
def test_each_missing_step_is_named(at: int) -> None:
    events = plain()
    del events[at]
    assert faults(events) == [f"no {('sent', 'received', 'active', 'completed')[at]}"]


def test_nothing_heard() -> None:
    assert faults([]) == ["nothing was heard of it"]


def test_failure_as_expected() -> None:
    events = [*plain()[:3], job("task-failed", 0.5)]
    assert faults(events, ends="failed") == []
    assert faults(events) == ["ended as failed, expected completed"]


def test_countdown_must_be_scheduled() -> None:
    events = plain()
    assert faults(events, scheduled=True) == ["received as queued, expected scheduled"]
    events[0]["job"]["scheduledFor"] = iso(1000.15)
    assert faults(events, scheduled=True) == ["received as queued, expected scheduled"]
    events[1]["job"]["state"] = "scheduled"
    assert faults(events, scheduled=True) == []


def test_received_after_its_eta_is_queued() -> None:
    events = plain()
    events[0]["job"]["scheduledFor"] = iso(1000.05)
    assert faults(events, scheduled=True) == []


def test_retry_complete_with_the_next_attempt_received_before_the_retry() -> None:
    assert faults(retried(), retries=1) == []


def test_retry_complete_with_the_next_attempt_received_after_the_retry() -> None:
    events = retried()
    events[5]["timestamp"] = iso(1000.25)
    events.insert(3, events.pop(5))
    assert faults(events, retries=1) == []


def test_retry_that_was_not_reported() -> None:
    events = retried()
    del events[5]
    assert faults(events, retries=1) == ["no retrying in attempt 1"]


def test_attempt_that_never_became_active() -> None:
    events = retried()
    del events[6]
    assert faults(events, retries=1) == ["no active in attempt 2"]


def test_more_retries_than_expected() -> None:
    assert faults(retried()) == [
        "no completed",
        "unexpected retrying",
        "ended in attempt 2, expected 1",
    ]


def test_fewer_retries_than_expected() -> None:
    found = faults(plain(), retries=1)
    assert "no retrying in attempt 1" in found
    assert "ended in attempt 1, expected 2" in found


def test_two_terminal_states() -> None:
    assert faults([*plain(), job("task-failed", 0.4)]) == ["2 terminal states: completed, failed"]


def test_the_same_terminal_state_twice() -> None:
    events = [*plain(), job("task-succeeded", 0.3)]
    assert faults(events) == ["2 terminal states: completed, completed"]


def test_active_twice() -> None:
    events = plain()
    events.insert(3, job("task-started", 0.25))
    assert faults(events) == ["2 times active in attempt 1"]


def test_something_after_the_end() -> None:
    sent, received, active, done = plain()
    assert faults([sent, received, done, active]) == ["active after completed"]
    late = job("task-sent", 0.9, attempt=2)
    assert faults([*plain(), late]) == ["sent (attempt 2) after completed"]


def test_time_running_backwards_within_an_attempt() -> None:
    events = plain()
    events[2]["timestamp"] = iso(1000.05)
    assert faults(events) == ["time runs backwards: active 50.000 ms before received"]


def test_time_running_backwards_between_attempts() -> None:
    events = retried()
    events[6]["timestamp"] = iso(1000.45)
    assert faults(events, retries=1) == [
        "time runs backwards: active (attempt 2) 50.000 ms before retrying"
    ]
    events = retried()
    events[3]["timestamp"] = iso(1000.15)
    assert faults(events, retries=1) == [
        "time runs backwards: sent (attempt 2) 50.000 ms before active"
    ]


def test_wrong_name() -> None:
    unknown = Timeline("unknown", timeline(plain()).moments)
    assert unknown.faults(expected()) == ["named 'unknown', expected 'orders.charge'"]


def test_states_that_are_no_step_are_left_out() -> None:
    assert Moment.of(job("task-sent", 0.0, state="unknown")) is None


def test_an_event_without_its_celery_type_goes_by_its_state() -> None:
    moment = Moment.of(job("task-revoked", 0.5, extensions={}))
    assert moment is not None
    assert moment == Moment(Step.ENDED, "cancelled", 1, 1000.5)


@pytest.mark.parametrize(
    ("heard", "state"),
    [(0, "queued"), (2, "queued"), (3, "active"), (5, "retrying"), (7, "active"), (8, "completed")],
)
def test_state_now(heard: int, state: str) -> None:
    assert timeline(retried()[:heard]).state == state


def test_wait_and_run_of_each_attempt() -> None:
    line = timeline(retried())
    # Attempt 2 was not to run before 1.0: its wait begins there, not when it was sent.
    assert list(line.waits()) == pytest.approx([0.2, 0.1])
    assert list(line.runs()) == pytest.approx([0.3, 0.1])


def test_spread() -> None:
    assert Spread.of([]) is None
    assert Spread.of([3.0]) == Spread(3.0, 3.0)
    assert Spread.of([float(value) for value in range(100, 0, -1)]) == Spread(50.0, 95.0)


def test_ledger_counts_a_task_as_complete_only_when_it_is() -> None:
    ledger = Ledger()
    ledger.expect(expected())
    *most, last = plain()
    ledger.add_request(1, most)
    assert (ledger.complete, ledger.expected) == (0, 1)
    assert ledger.faults() == {TASK: ["no completed"]}
    ledger.add_request(1, [last])
    assert (ledger.complete, ledger.faults()) == (1, {})
    ledger.add_request(1, [job("task-failed", 0.9)])
    assert ledger.complete == 0


def test_ledger_takes_events_before_the_expectation() -> None:
    ledger = Ledger()
    ledger.add_request(1, plain())
    assert ledger.strangers() == [TASK]
    ledger.expect(expected())
    assert (ledger.complete, ledger.strangers()) == (1, [])


def test_ledger_counts_an_event_that_is_delivered_twice_once() -> None:
    ledger = Ledger()
    ledger.expect(expected())
    events = plain()
    ledger.add_request(1, events)
    ledger.add_request(2, events)
    assert ledger.complete == 1


def test_ledger_pools_in_numbers() -> None:
    ledger = Ledger()
    ledger.expect(expected(retries=1))
    ledger.expect(Expectation("never-heard-of", "emails.send", "prefork", ends="failed"))
    events = retried()
    ledger.add_request(1, [event for event in events if "workerId" not in event["job"]][:1])
    ledger.add_request(2, [events[3]])  # sent by a child: the connection tells whose it is
    ledger.add_request(2, [event for event in events if "workerId" in event["job"]])
    pool = ledger.stats("prefork")
    assert (pool.tasks, pool.complete, pool.retries) == (2, 1, 1)
    assert pool.states == {"completed": 1, "queued": 1}
    assert pool.wait is not None
    assert [pool.wait.p50, pool.wait.p95] == pytest.approx([0.1, 0.2])
    assert (pool.events, pool.requests) == (7, 2)
    sender = ledger.stats(SENDER)
    assert (sender.tasks, sender.events, sender.requests) == (0, 1, 1)


def test_ledger_judges_workers() -> None:
    ledger = Ledger()
    assert ledger.worker_faults("prefork") == ["no online", "no heartbeat", "no offline at the end"]
    ledger.add_request(1, [worker_event(state) for state in ("online", "idle", "offline")])
    ledger.add_request(2, [worker_event("online", node="other@host")])
    assert ledger.worker_faults("prefork") == []
    ledger.add_request(1, [worker_event("idle")])
    assert ledger.worker_faults("prefork") == ["no offline at the end"]
