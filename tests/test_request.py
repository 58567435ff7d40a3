"""A task's life as the worker's MAIN sees it: one timeline per delivery, in order, no data."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import Terminated
from celery.exceptions import Ignore, Reject, Retry, TimeLimitExceeded, WorkerLostError
from celery.worker import state as worker_state
from celery.worker.request import Request, create_request_cls
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange

from sluice.capture.hook import RequestHook, hooked
from sluice.capture.request import TaskObserver
from sluice.events import FINAL_STATES, moment
from tests.doubles import LAW, Tape

CANARY = "canary-4111-1111-1111-1111"
START = 1000.0


class FakeRequest:
    """What `celery.worker.request.Request` offers to the hook; remembers what it was asked."""

    def __init__(
        self, task_id="the-id", *, retries=0, eta=None, args=(), kwargs=None, **delivery_info
    ):
        self.id = task_id
        self.name = "app.add"
        self.hostname = "w@h"
        self.time_start = None
        self.worker_pid = None
        self.task = SimpleNamespace(max_retries=3, acks_late=False)
        self.request_dict = {"retries": retries, "args": args, "kwargs": kwargs or {}}
        self.delivery_info = {"routing_key": "high", "exchange": ""} | delivery_info
        self.eta = eta
        self.root_id = "root"
        self.parent_id = "mum"
        self.acknowledged = False
        #: Called when the broker gets the message back.
        self.at_reject = lambda: None
        self.asked = []

    def send_event(self, event, **fields):
        self.asked.append((event, fields))

    def on_failure(self, exc_info, send_failed_event=True, return_ok=False):
        """As Celery does it: what becomes of the task is said in an event, or in none."""
        self.asked.append(("on_failure", send_failed_event, return_ok))
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if isinstance(exc, Reject):
            self.reject(requeue=exc.requeue)
        elif isinstance(exc, Retry):
            self.send_event("task-retried", exception=repr(exc.exc), traceback=exc_info.traceback)
        elif not isinstance(exc, (Ignore, Terminated)) and not worker_state.should_terminate:
            self.send_event("task-failed", exception=repr(exc), traceback=exc_info.traceback)
        return "handled"

    def reject(self, requeue=False):
        if not self.acknowledged:
            self.at_reject()
            self.acknowledged = True
            self.send_event("task-rejected", requeue=requeue)
        return "rejected"

    def on_timeout(self, soft, timeout):
        self.asked.append(("on_timeout", soft, timeout))
        return "timed out"


class CutOff(FakeRequest):
    """One of a worker whose broker and result backend are away: Celery raises."""

    def on_failure(self, exc_info, *args, **kwargs):
        raise ConnectionError("away")

    def on_timeout(self, soft, timeout):
        raise ConnectionError("away")


class Bench:
    """An observer with a tape, a clock that tests set, and requests that are hooked to it."""

    def __init__(self, *, tracebacks=True, base=FakeRequest):
        self.now = START
        self.tape = Tape()
        self.observer = TaskObserver(
            self.tape.recorder, tracebacks=tracebacks, clock=lambda: self.now
        )
        self.request_class = hooked(base, self.observer)

    def request(self, *args, started=None, pid=None, **kwargs) -> Any:
        request = self.request_class(*args, **kwargs)
        request.time_start, request.worker_pid = started, pid
        return request

    def run(self, **kwargs) -> Any:
        """A request that was received and has started one second later."""
        request = self.request(**kwargs)
        self.observer.received(request)
        self.now += 1
        request.time_start = self.now
        request.send_event("task-started")
        self.now += 1
        return request

    @property
    def jobs(self):
        return self.tape.jobs

    @property
    def last(self):
        return self.tape.events[-1]

    def story(self):
        return [(job.state, job.extensions["celeryEvent"]) for job in self.jobs]


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture(autouse=True)
def _no_requests():
    before = dict(worker_state.requests)
    yield
    worker_state.requests.clear()
    worker_state.requests.update(before)


def error_info(exception: BaseException) -> ExceptionInfo:
    with pytest.raises(type(exception)) as caught:
        raise exception
    return ExceptionInfo((caught.type, caught.value, caught.tb))


# --- the life of a task ---------------------------------------------------------------------------


def test_a_task_that_succeeds(bench):
    request = bench.run(retries=1, exchange="tasks")
    bench.now = START + 9
    request.send_event("task-succeeded", result="'r'", runtime=0.5)
    received, started, succeeded = bench.tape.events
    assert bench.story() == [
        ("queued", "task-received"),
        ("active", "task-started"),
        ("completed", "task-succeeded"),
    ]
    assert [event.job.previous_state for event in bench.tape.events] == [None, "queued", "active"]
    assert [event.timestamp for event in bench.tape.events] == [
        moment(START),
        moment(START + 1),
        moment(START + 1.5),
    ]
    for job in bench.jobs:
        assert (job.external_id, job.name, job.queue) == ("the-id", "app.add", "high")
        assert (job.worker_id, job.attempt, job.max_retries) == ("w@h", 2, 3)
        assert (job.parent_id, job.root_id) == ("mum", "root")
        assert job.extensions["exchange"] == "tasks"
    assert received.job.started_at is received.job.completed_at is None
    assert started.job.started_at == succeeded.job.started_at == moment(START + 1)
    assert started.job.completed_at is None
    assert succeeded.job.completed_at == moment(START + 1.5)
    assert succeeded.job.extensions["runtime"] == 0.5


def test_a_task_with_a_future_eta_is_scheduled(bench):
    eta = datetime.fromtimestamp(START + 60, UTC)
    bench.run(eta=eta)
    assert bench.story()[0] == ("scheduled", "task-received")
    assert bench.jobs[1].previous_state == "scheduled"
    assert [job.scheduled_for for job in bench.jobs] == [eta, eta]


def test_an_eta_in_another_time_zone_is_sent_as_utc(bench):
    zone = timezone(timedelta(hours=2))
    bench.observer.received(bench.request(eta=datetime(2126, 1, 2, 3, 4, 5, tzinfo=zone)))
    assert b'"scheduledFor":"2126-01-02T01:04:05Z"' in bench.tape.payloads[0]


def test_a_task_whose_eta_has_passed_is_queued(bench):
    bench.observer.received(bench.request(eta=datetime.fromtimestamp(START - 1, UTC)))
    assert bench.story() == [("queued", "task-received")]
    assert bench.jobs[0].scheduled_for is None


@pytest.mark.parametrize("flags", [{"expired": True}, {"terminated": True, "signum": 15}])
def test_a_revoked_task_is_cancelled(bench, flags):
    request = bench.run()
    request.send_event("task-revoked", **flags)
    assert bench.story()[-1] == ("cancelled", "task-revoked")
    assert bench.last.job.completed_at == bench.last.timestamp
    assert flags.items() <= bench.last.job.extensions.items()


def test_a_task_that_was_revoked_before_it_started_has_not_started(bench):
    request = bench.request()
    bench.observer.received(request)
    request.send_event("task-revoked", terminated=False, signum=None, expired=True)
    assert bench.last.job.started_at is None
    assert bench.last.job.previous_state == "queued"
    assert "signum" not in bench.last.job.extensions


# --- failures -------------------------------------------------------------------------------------


def test_a_failure_has_the_real_exception(bench):
    request = bench.run()
    info = error_info(KeyError("nothing here"))
    assert request.on_failure(info) == "handled"
    job = bench.last.job
    assert bench.story()[-1] == ("failed", "task-failed")
    assert job.error == "'nothing here'"
    assert job.extensions["exceptionClass"] == "KeyError"
    assert job.stacktrace == info.traceback
    assert job.completed_at == bench.last.timestamp == moment(START + 2)


def test_a_failure_without_its_traceback_where_that_is_wished():
    bench = Bench(tracebacks=False)
    bench.run().on_failure(error_info(KeyError("nothing here")))
    assert bench.last.job.error == "'nothing here'"
    assert bench.last.job.stacktrace is None


def test_an_exception_without_a_text_has_its_name(bench):
    bench.run().on_failure(error_info(ValueError()))
    assert bench.last.job.error == "ValueError"


def test_an_exception_whose_text_cannot_be_made_has_its_name(bench):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    info = SimpleNamespace(exception=Mute(), traceback="Traceback")
    request = bench.run()
    request.sluice_failure = info
    request.send_event("task-failed", exception="Mute()", traceback="Traceback")
    assert (bench.last.job.error, bench.last.job.extensions["exceptionClass"]) == ("Mute", "Mute")
    assert bench.tape.notices.faults == 0


def test_a_lost_worker_is_unwrapped(bench):
    wrapped = ExceptionWithTraceback(WorkerLostError("signal 9"), "")
    request = bench.run()
    request.sluice_failure = SimpleNamespace(exception=wrapped, traceback=None)
    request.send_event("task-failed", exception="ExceptionWithTraceback()", traceback=None)
    assert bench.last.job.extensions["exceptionClass"] == "WorkerLostError"
    assert "signal 9" in bench.last.job.error


def test_a_failure_of_which_only_the_event_tells_has_its_texts(bench):
    request = bench.run()
    request.send_event("task-failed", exception="KeyError('x')", traceback="Traceback\nx")
    job = bench.last.job
    assert (job.error, job.stacktrace) == ("KeyError('x')", "Traceback\nx")
    assert job.extensions["exceptionClass"] == "KeyError"


def test_a_hard_time_limit_has_its_name_where_the_event_has_lost_it(bench):
    request = bench.run()
    request.sluice_time_limit = 5
    request.send_event("task-failed", exception="", traceback=None)
    assert bench.last.job.error == "TimeLimitExceeded(5,)"
    assert bench.last.job.extensions["exceptionClass"] == "TimeLimitExceeded"


def test_a_hard_time_limit_is_a_failure_also_where_celery_has_no_event_for_it(bench):
    """Before 5.7, in a gevent pool.  A prefork pool tells of it later."""
    request = bench.run()
    assert request.on_timeout(soft=False, timeout=5) == "timed out"
    assert bench.story()[-1] == ("failed", "task-failed")
    assert bench.last.job.error == "TimeLimitExceeded(5,)"
    told = len(bench.story())
    request.send_event("task-failed", exception="TimeLimitExceeded(5,)", traceback=None)
    assert len(bench.story()) == told, "once"


def test_a_hard_time_limit_during_a_cold_end_is_no_failure(bench, monkeypatch):
    """Celery gives the task back then."""
    monkeypatch.setattr(worker_state, "should_terminate", True)
    request = bench.run()
    told = len(bench.story())
    request.on_timeout(soft=False, timeout=5)
    assert len(bench.story()) == told


def test_what_fails_by_itself_during_a_cold_end_is_told(bench, monkeypatch):
    """Celery stores the failure and sends no event."""
    monkeypatch.setattr(worker_state, "should_terminate", True)
    assert bench.run().on_failure(error_info(KeyError("nothing here"))) == "handled"
    assert bench.story()[-1] == ("failed", "task-failed")
    assert bench.last.job.error == "'nothing here'"


@pytest.mark.parametrize("exception", [Terminated(15), SystemExit(1), WorkerLostError("gone")])
def test_what_a_cold_end_cancels_has_one_end(bench, monkeypatch, exception):
    monkeypatch.setattr(worker_state, "should_terminate", True)
    request = bench.run()
    request.send_event("task-cancelled")
    told = bench.story()
    request.on_failure(error_info(exception))
    assert bench.story() == told


@pytest.mark.parametrize(
    ("exception", "acks_late"), [(Terminated(15), False), (KeyError("late"), True)]
)
def test_what_comes_again_after_a_cold_end_is_no_failure(bench, monkeypatch, exception, acks_late):
    monkeypatch.setattr(worker_state, "should_terminate", True)
    request = bench.run()
    request.task.acks_late = acks_late
    told = bench.story()
    request.on_failure(error_info(exception))
    assert bench.story() == told


def test_a_soft_time_limit_is_not_taken_for_a_hard_one(bench):
    request = bench.run()
    request.on_timeout(soft=True, timeout=5)
    request.send_event("task-failed", exception="KeyError()", traceback=None)
    assert bench.last.job.extensions["exceptionClass"] == "KeyError"


def test_a_retry_shows_what_it_was_for(bench):
    cause = ValueError("not yet")
    bench.run().on_failure(error_info(Retry("Retry in 5s", cause, when=5)))
    assert bench.story()[-1] == ("retrying", "task-retried")
    assert bench.last.job.error == "not yet"
    assert bench.last.job.extensions["exceptionClass"] == "ValueError"
    assert bench.last.job.completed_at is None


def test_a_retry_without_a_cause_says_so_itself(bench):
    bench.run().on_failure(error_info(Retry("Task can be retried", None, when=5)))
    assert bench.last.job.extensions["exceptionClass"] == "Retry"
    assert "Task can be retried" in bench.last.job.error


def test_ignore_is_an_end_although_celery_has_no_event_for_it(bench):
    request = bench.run()
    request.on_failure(error_info(Ignore()))
    assert bench.story()[-1] == ("completed", "task-ignored")
    assert bench.last.job.completed_at is not None
    assert bench.last.job.error is None
    assert "task-ignored" not in [event for event, *_ in request.asked]  # it is ours, not Celery's


@pytest.mark.parametrize(("requeue", "state"), [(True, "retrying"), (False, "failed")])
def test_a_rejected_task_comes_back_or_has_failed(bench, requeue, state):
    # Celery 5.7 says `task-failed` before a rejection without requeue: the first end counts.
    bench.run().on_failure(error_info(Reject("bad luck", requeue=requeue)))
    assert bench.story()[-1] == (state, "task-rejected")
    assert bench.last.job.extensions["requeue"] is requeue
    assert bench.last.job.extensions["exceptionClass"] == "Reject"
    assert "bad luck" in bench.last.job.error


def test_a_rejected_task_is_reported_before_the_broker_has_it_back(bench):
    request = bench.run()
    stories = []
    request.at_reject = lambda: stories.append(bench.story())
    assert request.reject(requeue=True) == "rejected"
    (story,) = stories
    assert story == bench.story()
    assert story[-1] == ("retrying", "task-rejected")


def test_a_message_that_was_acknowledged_is_not_rejected(bench):
    request = bench.run()
    request.acknowledged = True
    request.reject(requeue=True)
    assert bench.story()[-1] == ("active", "task-started")


# --- one end --------------------------------------------------------------------------------------

ENDS = {
    "task-succeeded": {"result": "'r'", "runtime": 0.1},
    "task-failed": {"exception": "KeyError()", "traceback": ""},
    "task-retried": {"exception": "KeyError()", "traceback": ""},
    "task-revoked": {"terminated": True, "signum": 9, "expired": False},
    "task-rejected": {"requeue": False},
}


@LAW
@given(ends=st.lists(st.sampled_from(sorted(ENDS)), min_size=1, max_size=5))
def test_a_delivery_ends_once_and_the_first_end_counts(ends):
    bench = Bench()
    request = bench.run()
    for end in ends:
        request.send_event(end, **ENDS[end])
    assert [job.state in FINAL_STATES for job in bench.jobs] == [False, False, True]
    assert bench.last.job.extensions["celeryEvent"] == ends[0]
    assert [event for event, *_ in request.asked] == ["task-started", *ends]


def test_a_killed_greenlet_succeeds_in_vain_before_it_is_revoked(bench):
    request = bench.run()
    request.send_event("task-succeeded", result=None, runtime=None)
    request.send_event("task-revoked", **ENDS["task-revoked"])
    assert bench.story()[2:] == [("cancelled", "task-revoked")]


def test_a_killed_greenlet_succeeds_in_vain_after_it_was_revoked(bench):
    request = bench.run()
    request.send_event("task-revoked", **ENDS["task-revoked"])
    request.send_event("task-succeeded", result=None, runtime=None)
    assert bench.story()[2:] == [("cancelled", "task-revoked")]


def finish(request, result):
    """As the class does that Celery puts in front of every `Request`."""

    class InFront(type(request)):
        def on_success(self, result, **kwargs):
            self.send_event("task-succeeded", result=result[1], runtime=result[2])

    request.__class__ = InFront
    request.on_success(result)


@pytest.mark.parametrize(
    ("result", "ends"),
    [
        ((False, None, None), []),  # a killed greenlet's
        ((0, None, None), [("completed", "task-succeeded")]),  # its result was there already
        ((0, "'r'", 0.5), [("completed", "task-succeeded")]),
    ],
)
def test_what_is_not_run_because_its_result_is_there_has_succeeded(bench, result, ends):
    """`worker_deduplicate_successful_tasks`: Celery says so without a runtime."""
    finish(bench.run(redelivered=True), result)
    assert bench.story()[2:] == ends


def test_a_hard_time_limit_that_celery_reports_twice_is_reported_once(bench):
    request = bench.run()
    request.on_timeout(soft=False, timeout=5)
    for _ in range(2):
        request.on_failure(error_info(TimeLimitExceeded(5)))
    assert bench.story()[2:] == [("failed", "task-failed")]


def test_a_message_that_is_delivered_again_has_a_life_of_its_own(bench):
    for redelivered in (False, True):
        request = bench.run(redelivered=redelivered)
        request.send_event("task-succeeded", result="'r'", runtime=0.1)
    assert [state for state, _ in bench.story()] == ["queued", "active", "completed"] * 2
    assert [job.extensions.get("redelivered") for job in bench.jobs] == [None] * 3 + [True] * 3


# --- time -----------------------------------------------------------------------------------------


def test_a_start_has_the_time_at_which_the_task_began(bench):
    request = bench.request()
    bench.observer.received(request)
    request.time_start, bench.now = START + 5, START + 60
    request.send_event("task-started")
    assert bench.last.timestamp == moment(START + 5)


def test_a_start_that_seems_to_be_before_the_arrival_is_told_with_it(bench):
    """Celery reads two clocks for it in MAIN, and a pause between them makes it earlier."""
    request = bench.request()
    bench.observer.received(request)
    request.time_start = START - 0.0009
    request.send_event("task-started")
    assert bench.last.timestamp == moment(START)
    assert bench.last.job.started_at == moment(START)


def test_a_success_that_waited_for_a_lost_broker_has_the_time_of_the_task(bench):
    request = bench.run()
    bench.now = START + 3600
    request.send_event("task-succeeded", result="'r'", runtime=4.0)
    assert bench.last.timestamp == moment(START + 5)


def test_a_success_is_never_in_the_future(bench):
    request = bench.run()
    request.send_event("task-succeeded", result="'r'", runtime=4000.0)
    assert bench.last.timestamp == moment(bench.now)


def test_a_success_of_unknown_start_is_now(bench):
    request = bench.request()
    request.send_event("task-succeeded", result="'r'", runtime=4.0)
    assert bench.last.timestamp == moment(bench.now)


@LAW
@given(
    starts=st.lists(st.none() | st.floats(START - 50, START + 50), min_size=1, max_size=4),
    steps=st.lists(st.floats(-50, 50), min_size=4, max_size=4),
)
def test_the_times_of_one_delivery_never_run_backwards(starts, steps):
    bench = Bench()
    request = bench.request()
    bench.observer.received(request)
    for start, step in zip(starts, steps, strict=False):
        bench.now += step  # a clock that someone sets back, or another machine's
        request.time_start = start
        request.send_event("task-started")
    request.send_event("task-succeeded", result="'r'", runtime=0.25)
    received, *later = bench.tape.events
    times = [received.timestamp, *(event.timestamp for event in later)]
    assert times == sorted(times)
    for event in later:
        began = event.job.started_at
        assert began is None or received.timestamp <= began <= event.timestamp


def test_a_retry_is_reported_before_the_next_attempt_that_overtook_it(bench):
    first = bench.run()
    worker_state.requests["the-id"] = first
    bench.now = START + 10
    second = bench.request(retries=1)
    bench.observer.received(second)
    bench.now = START + 11
    first.on_failure(error_info(Retry("again", ValueError("x"), when=0)))
    by_attempt = sorted(bench.tape.events, key=lambda e: (e.timestamp, e.job.attempt))
    assert [(event.job.attempt, event.job.state) for event in by_attempt] == [
        (1, "queued"),
        (1, "active"),
        (1, "retrying"),
        (2, "queued"),
    ]


def test_an_attempt_that_overtook_one_can_be_overtaken_itself(bench):
    """Celery forgets it when the first one ends: `task_ready` goes by the id."""
    attempts = [bench.run(retries=0)]
    worker_state.requests[attempts[0].id] = attempts[0]
    for number in (1, 2):
        attempts.append(bench.run(retries=number))
        worker_state.requests[attempts[number].id] = attempts[number]
        before = attempts[number - 1]
        bench.now += 1
        before.send_event("task-retried", exception="ConnectionError()")
        worker_state.requests.pop(before.id, None)
    attempts[2].send_event("task-succeeded", runtime=1.0)
    times = {(event.job.attempt, event.job.state): event.timestamp for event in bench.tape.events}
    assert times[1, "retrying"] == times[2, "queued"]
    assert times[2, "retrying"] == times[3, "queued"]
    assert bench.observer._overtook == {}


def test_a_request_does_not_overtake_itself(bench):
    request = bench.request()
    worker_state.requests["the-id"] = request
    bench.observer.received(request)
    request.time_start = START + 1
    request.send_event("task-started")
    bench.now = START + 30
    request.on_failure(error_info(Retry("again", ValueError("x"), when=0)))
    assert bench.last.timestamp == moment(START + 30)


@pytest.mark.parametrize(
    ("exception", "event"),
    [
        (MemoryError("Process got: "), "task-failed"),
        (ValueError("no"), "task-failed"),
        (Retry("again", ValueError("no")), "task-retried"),
        (Ignore(), "task-ignored"),
    ],
)
def test_an_end_is_told_also_where_celery_itself_raises_before_it_tells(exception, event):
    """A MemoryError it raises anew; with the result backend away it comes no further either."""
    bench = Bench(base=CutOff)
    request = bench.run()
    with pytest.raises(ConnectionError):
        request.on_failure(error_info(exception))
    assert bench.last.job.extensions["celeryEvent"] == event
    assert len(bench.jobs) == 3


def test_a_rejection_of_what_was_acknowledged_is_told_though_celery_does_not(bench):
    """By default a message is acknowledged before the task runs, and then cannot come back."""
    request = bench.run()
    request.acknowledged = True
    request.on_failure(error_info(Reject("no", requeue=True)), return_ok=True)
    assert bench.story()[-1] == ("failed", "task-rejected")
    assert bench.last.job.extensions["requeue"] is False


class Strict(FakeRequest):
    """A request of Celery's own subclass, as `create_request_cls` makes it."""

    def on_success(self, failed__retval__runtime, **kwargs):
        failed, result, _ = failed__retval__runtime
        exception = getattr(result.exception, "exc", result.exception)
        if failed and isinstance(exception, SystemExit):
            raise exception
        self.send_event("task-succeeded", result="r", runtime=0.5)


@pytest.mark.parametrize("wrapped", [False, True], ids=["threads, gevent, solo", "prefork"])
def test_a_task_that_ends_by_sys_exit_has_failed(wrapped):
    """Celery breaks on what is no `Exception`, before it tells of an end."""
    bench = Bench()
    made = {"on_success": Strict.on_success}
    request = type("Request", (hooked(FakeRequest, bench.observer),), made)()
    bench.observer.received(request)
    request.send_event("task-started")
    found = error_info(SystemExit("leave CANARY"))
    request.request_dict["args"] = ("leave CANARY",)
    with pytest.raises((TypeError, SystemExit)):
        request.on_success((True, found, 0.1) if wrapped else found)
    assert bench.story()[-1] == ("failed", "task-failed")
    assert bench.last.job.extensions["exceptionClass"] == "SystemExit"
    assert "CANARY" not in bench.last.job.error
    assert bench.tape.notices.faults == 0


@pytest.mark.parametrize(
    ("late", "acknowledged", "state"),
    [(True, False, "retrying"), (True, True, "cancelled"), (False, True, "cancelled")],
)
def test_a_cancelled_task_that_the_broker_still_has_comes_again(bench, late, acknowledged, state):
    request = bench.run()
    request.task.acks_late, request.acknowledged = late, acknowledged
    request.send_event("task-cancelled")
    assert bench.story()[-1] == (state, "task-cancelled")


def test_a_hard_limit_whose_message_goes_back_is_no_failure():
    """Celery 5.7 says that it failed, and then gives it back."""

    class Limited(FakeRequest):
        def on_timeout(self, soft, timeout):
            self.send_event("task-failed", exception="TimeLimitExceeded(1)", traceback=None)
            self.reject(requeue=True)

    bench = Bench(base=Limited)
    request = bench.run()
    request.task.acks_late, request.task.acks_on_timeout = True, False
    request.on_timeout(False, 1)
    assert bench.story()[2:] == [("retrying", "task-rejected")]


def test_before_celery_5_7_what_follows_a_hard_limit_in_prefork_says_what_it_was(bench):
    bench.observer.begin_worker(pool_has_processes=True)
    request = bench.run()
    request.task.acks_late = True
    request.on_timeout(False, 1)
    assert len(bench.story()) == 2
    request.reject(requeue=True)
    assert bench.story()[-1] == ("retrying", "task-rejected")


@pytest.mark.parametrize("retries", [0, 2])
def test_a_replacement_that_ended_before_we_heard_of_it_is_later_in_time(bench, retries):
    """Celery counts its attempts anew."""
    request = bench.run(retries=retries)
    worker_state.requests[request.id] = request
    try:
        later = bench.request()
        later.request_dict["replaced_task_nesting"] = 1
        bench.now += 1
        bench.observer.received(later)
        arrived = bench.last.timestamp
        bench.now += 1
        request.on_failure(error_info(Ignore("Replaced by new task")), return_ok=True)
    finally:
        worker_state.requests.pop(request.id, None)
    assert bench.story()[-1] == ("retrying", "task-replaced")
    assert bench.last.timestamp == arrived


@pytest.mark.parametrize(
    ("retries", "attempt"), [(2, 3), (-1, 1), (1.0, 2), ("1", 1), (None, 1), (True, 1)]
)
def test_the_attempt_is_a_number_from_one_whatever_the_message_says(bench, retries, attempt):
    request = bench.request()
    request.request_dict["retries"] = retries
    bench.observer.received(request)
    assert bench.last.job.attempt == attempt


def test_a_rejected_one_is_told_by_its_rejection_alone():
    bench = Bench(base=CutOff)
    request = bench.run()
    with pytest.raises(ConnectionError):
        request.on_failure(error_info(Reject("no", requeue=True)))
    assert len(bench.jobs) == 2


def test_a_hard_limit_is_told_also_where_celery_itself_raises():
    bench = Bench(base=CutOff)
    request = bench.run()
    with pytest.raises(ConnectionError):
        request.on_timeout(soft=False, timeout=3)
    assert bench.last.job.extensions["exceptionClass"] == "TimeLimitExceeded"


def test_a_task_that_is_replaced_is_not_told_as_completed(bench):
    """`Task.replace` sends another under the same id, which ends in its own way."""
    request = bench.run()
    request.on_failure(error_info(Ignore("Replaced by new task")))
    assert bench.story()[-1] == ("retrying", "task-replaced")
    assert bench.last.job.completed_at is None


def test_an_error_text_that_cannot_be_made_does_not_cost_the_end(bench, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise UnicodeEncodeError("utf-8", "x", 0, 1, "surrogates not allowed")

    monkeypatch.setattr("sluice.capture.request.fault_of", fail)
    request = bench.run()
    request.send_event("task-failed", exception="ValueError('x')", traceback="t")
    assert bench.story()[-1] == ("failed", "task-failed")
    assert bench.last.job.error is None
    assert bench.tape.notices.faults == 1


def test_an_exit_is_told_as_celery_tells_it(bench):
    """It makes a WorkerLostError of a SystemExit."""
    request = bench.run()
    request.sluice_failure = error_info(SystemExit(1))
    text = "WorkerLostError('Worker exited prematurely: exitcode 1')"
    request.send_event("task-failed", exception=text, traceback="t")
    assert bench.last.job.error == text
    assert bench.last.job.extensions["exceptionClass"] == "WorkerLostError"


def test_the_same_attempt_delivered_again_does_not_end_the_first_one(bench):
    first = bench.run()
    worker_state.requests[first.id] = first
    bench.now += 100
    bench.observer.received(bench.request())
    bench.now += 100
    first.send_event("task-retried", exception="E()", traceback="t")
    assert bench.last.timestamp == moment(bench.now)


def test_the_bits_of_a_delay_are_no_part_of_a_queues_name(bench):
    request = bench.request()
    request.delivery_info = {
        "exchange": Exchange("celery_delayed_27", type="topic"),
        "routing_key": "0." * 23 + "1.1.1.1.0." + "celery",
    }
    bench.observer.received(request)
    assert bench.last.job.queue == "celery"
    assert bench.last.job.extensions["exchange"] == "celery_delayed_27"


# --- what is told besides -------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [True, False])
def test_the_pid_is_that_of_the_process_that_runs_the_task(bench, processes):
    bench.observer.begin_worker(pool_has_processes=processes)
    request = bench.request(started=START + 1, pid=4242)
    request.send_event("task-started")
    assert bench.last.job.extensions["pid"] == (4242 if processes else os.getpid())


def test_a_task_that_has_not_started_has_no_pid(bench):
    bench.observer.received(bench.request())
    assert "pid" not in bench.last.job.extensions


@pytest.mark.parametrize(
    ("most", "wanted"), [(None, None), (0, 0), ("x", None), (-1, None), (False, None)]
)
def test_max_retries_are_a_number_or_unknown(bench, most, wanted):
    request = bench.request()
    request.task.max_retries = most
    bench.observer.received(request)
    assert bench.last.job.max_retries == wanted


def test_long_texts_are_cut_to_the_limits(bench):
    # The tape decodes as a receiver does: a text beyond its limit would be an error.
    request = bench.request("i" * 600, routing_key="q" * 300, exchange="e" * 600)
    request.name, request.hostname = "n" * 2000, "h" * 600
    bench.observer.received(request)
    job = bench.last.job
    assert (len(job.external_id), len(job.queue), len(job.name)) == (512, 255, 1024)
    assert len(job.worker_id) == 512
    assert len(job.extensions["exchange"]) == 500


def test_texts_of_a_failure_are_cut_to_the_limits(bench):
    request = bench.run()
    request.send_event("task-failed", exception="E(" * 45_000, traceback="T" * 90_000)
    assert (len(bench.last.job.error), len(bench.last.job.stacktrace)) == (10_000, 50_000)


@pytest.mark.parametrize(("value", "length"), [("i" * 600, 512), ("", None), (None, None)])
@pytest.mark.parametrize("name", ["parent_id", "root_id"])
def test_parent_and_root_ids_keep_to_the_limits(bench, name, value, length):
    request = bench.request()
    setattr(request, name, value)
    bench.observer.received(request)
    found = getattr(bench.last.job, name)
    assert (found and len(found)) == length


def test_a_task_that_retries_itself_is_not_its_own_parent(bench):
    request = bench.request()
    request.parent_id = "the-id"
    bench.observer.received(request)
    assert bench.last.job.parent_id is None


def test_an_event_of_a_future_celery_leaves_the_state_as_it_was(bench):
    request = bench.run()
    request.send_event("task-paused", reason="lunch", depth=3)
    job = bench.last.job
    assert (job.state, job.previous_state) == ("active", "active")
    assert job.extensions["celeryEvent"] == "task-paused"
    assert (job.extensions["reason"], job.extensions["depth"]) == ("lunch", 3)
    request.send_event("task-succeeded", result="'r'", runtime=0.5)
    assert bench.story()[-1] == ("completed", "task-succeeded")


def test_an_unknown_event_of_an_unknown_task_is_unknown(bench):
    bench.request().send_event("task-dreamt")
    assert bench.story() == [("unknown", "task-dreamt")]


def test_a_field_of_a_future_celery_is_taken_along(bench):
    request = bench.run()
    request.send_event(
        "task-succeeded", result=CANARY, runtime=0.5, cpu=1.5, retval=CANARY, args=[CANARY], x=[1]
    )
    extensions = bench.last.job.extensions
    assert extensions["cpu"] == 1.5
    assert {"result", "retval", "args", "x"}.isdisjoint(extensions)


# --- the task's data ------------------------------------------------------------------------------


def test_a_header_of_the_users_is_in_no_text(bench):
    request = bench.run()
    request.request_dict |= {"x-tenant": CANARY, "stamps": {"by": [CANARY]}, "lang": "py"}
    request.request_dict |= {"origin": "gen1@web-1", "task": "app.add"}
    request.on_failure(error_info(PermissionError(f"app.add of {CANARY} from gen1@web-1")))
    assert bench.last.job.error == "app.add of [argument] from gen1@web-1"
    assert CANARY not in bench.last.job.stacktrace


@LAW
@given(
    data=st.recursive(
        st.just(CANARY),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=4,
    ),
    end=st.sampled_from(["success", "failure", "retry", "reject", "unknown field"]),
    tracebacks=st.booleans(),
)
def test_no_argument_or_result_is_ever_reported(data, end, tracebacks):
    bench = Bench(tracebacks=tracebacks)
    request = bench.run(args=[data], kwargs={"k": data})
    request.request_dict |= {"argsrepr": repr(data), "kwargsrepr": repr({"k": data})}
    if end == "success":
        request.send_event("task-succeeded", result=repr(data), runtime=0.5)
    elif end == "failure":
        request.on_failure(error_info(ValueError(f"cannot use {data}")))
    elif end == "retry":
        request.on_failure(error_info(Retry(f"{data}", ValueError(data), when=1)))
    elif end == "reject":
        request.on_failure(error_info(Reject(f"{data}", requeue=True)))
    else:
        request.send_event("task-noted", note=f"about {data!r}", result=data)
    assert len(bench.jobs) == 3
    assert CANARY.encode() not in b"".join(bench.tape.payloads)


@pytest.mark.parametrize(
    "message",
    [
        {"args": [CANARY]},
        {"kwargs": {"k": [CANARY]}},
        {"argsrepr": CANARY},
        {"kwargsrepr": CANARY},
    ],
    ids=lambda message: next(iter(message)),
)
def test_arguments_are_known_from_every_part_of_a_message(bench, message):
    request = bench.run()
    request.request_dict |= message
    request.on_failure(error_info(ValueError(f"cannot use {CANARY} here")))
    assert bench.last.job.error == "cannot use [argument] here"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"<CardError {CANARY}>", None),
        (f"{CANARY}", None),
        (f"CardError('{CANARY}')", "CardError"),
        ("app.errors.CardError()", "app.errors.CardError"),
        ("", None),
        (None, None),
    ],
)
def test_a_class_name_is_a_name(bench, text, name):
    request = bench.run(args=[CANARY])
    request.send_event("task-failed", exception=text, traceback="")
    assert bench.last.job.extensions["exceptionClass"] == name


# --- Celery goes on -------------------------------------------------------------------------------


class Broken:
    """A recorder that does not work."""

    def __init__(self, notices):
        self.notices = notices

    def job(self, at, job):
        raise RuntimeError("ours")


@pytest.mark.parametrize("event", sorted(ENDS))
def test_a_fault_of_ours_is_counted_and_celery_goes_on(event):
    tape = Tape()
    observer = TaskObserver(Broken(tape.notices), tracebacks=True)
    request = hooked(FakeRequest, observer)()
    observer.received(request)
    request.send_event(event, **ENDS[event])
    assert request.asked == [(event, ENDS[event])]
    assert tape.notices.faults == 2


class Ambiguous:
    """What compares to no truth, as the arrays of numerical libraries do."""

    def __eq__(self, other):
        return self

    __hash__ = None

    def __bool__(self):
        raise ValueError("The truth value is ambiguous")


def test_a_task_may_be_ignored_for_whatever_reason(bench):
    request = bench.run()
    assert request.on_failure(error_info(Ignore(Ambiguous())), return_ok=True) == "handled"
    assert bench.story()[-1] == ("completed", "task-ignored")
    assert bench.tape.notices.faults == 0


class Hostile(Ignore):
    """An exception with code of its own, which fails."""

    @property
    def args(self):
        raise RuntimeError("not now")


@pytest.mark.parametrize("exception", [Ignore(), KeyError("x"), Reject(requeue=False), Hostile()])
def test_a_fault_of_ours_leaves_celerys_handling_of_a_failure_alone(exception):
    tape = Tape()
    request = hooked(FakeRequest, TaskObserver(Broken(tape.notices), tracebacks=True))()
    assert request.on_failure(error_info(exception), return_ok=True) == "handled"
    assert request.asked[0] == ("on_failure", True, True)
    assert tape.notices.faults >= 1


def test_a_request_that_lacks_everything_is_a_fault_and_not_an_error(bench):
    bench.observer.received(None)
    assert bench.tape.notices.faults == 1


# --- classes --------------------------------------------------------------------------------------


def test_celerys_own_request_can_be_hooked(bench):
    made = hooked(Request, bench.observer)
    assert issubclass(made, Request)
    assert made.__mro__[1] is RequestHook
    assert made.__name__ == "Request"


def test_a_base_is_hooked_once(bench):
    assert hooked(Request, bench.observer) is hooked(Request, bench.observer)


class CustomRequest(FakeRequest):
    """A user's own."""

    seen: tuple = ()

    def send_event(self, event, **fields):
        self.seen += (event,)
        super().send_event(event, **fields)

    def on_failure(self, exc_info, *args, **kwargs):
        self.seen += ("on_failure",)
        return super().on_failure(exc_info, *args, **kwargs)


def test_a_custom_request_class_still_does_what_it_did():
    bench = Bench(base=CustomRequest)
    request = bench.run()
    request.on_failure(error_info(KeyError("x")))
    assert isinstance(request, CustomRequest)
    assert request.seen == ("task-started", "on_failure", "task-failed")
    assert bench.story()[-1] == ("failed", "task-failed")


def test_tasks_are_hooked_once_and_late_ones_later(bench):
    shared = SimpleNamespace(Request="celery.worker.request:Request")
    custom = SimpleNamespace(Request=CustomRequest)
    tasks: dict[str, Any] = {"a": shared, "b": custom}
    assert bench.observer.hook_tasks(tasks) is True
    assert issubclass(shared.Request, (RequestHook, Request))
    assert issubclass(custom.Request, CustomRequest)
    hooked_class = custom.Request

    assert bench.observer.hook_tasks(tasks) is False
    assert custom.Request is hooked_class

    tasks["late"] = SimpleNamespace(Request="celery.worker.request:Request")
    assert bench.observer.hook_tasks(tasks) is True
    assert tasks["late"].Request is shared.Request


def test_a_task_that_cannot_be_hooked_costs_itself_alone(bench):
    class Fixed:
        @property
        def Request(self):  # noqa: N802  Celery's name
            return Request

    tasks: dict[str, Any] = {"a": SimpleNamespace(Request=Request), "fixed": Fixed()}
    tasks["b"] = SimpleNamespace(Request=Request)
    assert bench.observer.hook_tasks(tasks) is True
    assert issubclass(tasks["a"].Request, RequestHook)
    assert issubclass(tasks["b"].Request, RequestHook)
    assert bench.tape.notices.faults == 1


def test_another_observer_can_hook_the_same_tasks(bench):
    tasks = {"a": SimpleNamespace(Request=Request)}
    bench.observer.hook_tasks(tasks)
    assert TaskObserver(bench.tape.recorder, tracebacks=True).hook_tasks(tasks) is True


def test_celerys_faster_subclass_still_goes_through_the_hook(bench):
    """`create_request_cls` puts a class in front that replaces `on_success`."""
    made = hooked(Request, bench.observer)
    app = SimpleNamespace(backend=None)
    pool = SimpleNamespace(apply_async=None)
    task = SimpleNamespace(name="t", acks_late=False, time_limit=None, soft_time_limit=None)
    front = create_request_cls(made, task, pool, "h", None, trace=len, app=app)
    assert front.send_event is RequestHook.send_event
    assert front.on_failure is RequestHook.on_failure
