"""The capture in a worker's MAIN: what it hands to Celery, and what it leaves alone."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import celery
import pytest
from celery.events.dispatcher import EventDispatcher

from sluice.capture.heartbeat import Heartbeat
from sluice.capture.hook import RequestHook
from sluice.capture.request import TaskObserver
from sluice.capture.worker import SilentDispatcher, WorkerCapture, _consumer_step
from sluice.events import ERROR_LIMIT
from sluice.lifesign import decode_sign
from sluice.testing import FakeClock
from tests.doubles import Tape


class Worker:
    """What is looked at of a `celery.apps.worker.Worker`; how often its queues were found."""

    def __init__(self) -> None:
        self.hostname = "w@host"
        self.concurrency = 2
        self.pool = SimpleNamespace(num_processes=2, limit=2)
        self.pool_cls = SimpleNamespace(__mro__=(), __name__="solo")
        self.asked = 0
        self.app = self

    @property
    def amqp(self) -> Any:
        self.asked += 1
        return SimpleNamespace(queues=SimpleNamespace(consume_from={"celery": 1, "mail": 2}))


class Process:
    """The process of the capture: what it was asked for."""

    def __init__(self) -> None:
        self.signs: list[bytes | None] = []
        self.chores: list[Any] = []

    def begin_worker(self, *, forks: bool) -> None:
        self.forks = forks

    def start_sender(self) -> None:
        pass

    def at_every_turn(self, chore: Any) -> None:
        self.chores.append(chore)

    def keep_sign(self, sign: bytes | None) -> None:
        self.signs.append(sign)

    def flush_at_end(self) -> None:
        pass


@pytest.fixture
def tape():
    return Tape()


@pytest.fixture
def capture(tape):
    return WorkerCapture(tape.recorder, TaskObserver(tape.recorder, tracebacks=True), Process())


# --- heartbeats -----------------------------------------------------------------------------------


def test_the_senders_thread_never_asks_the_app_for_its_queues(capture, tape):
    """kombu's `cached_property` takes a lock, which is green in a green process."""
    worker = Worker()
    capture.worker_made(worker, beat=False)
    found = worker.asked
    capture.worker_started()
    for _ in range(3):
        capture.heartbeat._due = 0.0
        capture.process.chores[0]()
    assert worker.asked == found
    assert len(tape.events) == 4
    assert all(event.worker.queues == ["celery", "mail"] for event in tape.events)


def test_a_heartbeat_that_was_missed_is_not_made_up_for(tape):
    clock = FakeClock()
    heartbeat = Heartbeat(tape.recorder, Worker(), "solo", monotonic=clock.monotonic)
    heartbeat.online()
    told = []
    for seconds in (1.5, 1.0, 1.5, 7.5, 0.5, 1.0, 0.5, 2.0):
        clock.advance(seconds)
        heartbeat.beat()
        told.append(len(tape.events) - 1)
    assert told == [0, 1, 2, 3, 3, 3, 4, 5]


def test_a_heartbeat_that_comes_too_late_leaves_no_sign_of_a_worker_that_has_ended(tape):
    """The worker says that it ended while the sender is in the middle of a heartbeat."""
    signs: list[bytes | None] = []

    def keep(sign: bytes | None) -> None:
        signs.append(sign)
        if len(signs) == 1:
            heartbeat.offline()

    heartbeat = Heartbeat(tape.recorder, Worker(), "solo", keep_sign=keep)
    heartbeat._due = 0.0
    heartbeat.beat()
    assert decode_sign(signs[0]).worker == "w@host"
    assert signs[-1] is None


def test_the_pid_is_that_of_the_worker_and_not_of_who_called_init(capture, monkeypatch):
    """`init()`, and then a process of multiprocessing that is the worker."""
    capture.observer._pid = 1
    capture.worker_made(Worker(), beat=False)
    assert capture.observer._pid == os.getpid()


# --- the dispatcher -------------------------------------------------------------------------------


def test_a_dispatcher_of_celerys_can_follow_ours():
    """At the next connection Celery takes over what waits in the last one's buffer."""
    app = celery.Celery(broker="memory://", set_as_current=False)
    with app.connection_for_write() as connection:
        real = EventDispatcher(connection, enabled=False, app=app)
        ours = SilentDispatcher()
        ours.send("task-received", uuid="x")
        real.extend_buffer(ours)
        real.flush()
        ours.extend_buffer(real)
        assert not real._outbound_buffer


# --- what it has to say ---------------------------------------------------------------------------


class Timer:
    """A timer that runs what is due when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, tuple[Any, ...]]] = []

    def call_after(self, seconds: float, call: Any, args: tuple[Any, ...] = ()) -> None:
        assert seconds > 0
        self.waiting.append((call, args))

    def pass_time(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call, args in waiting:
            call(*args)


def test_a_worker_that_loses_its_broker_again_and_again_has_one_timer(capture, tape, monkeypatch):
    said = []
    monkeypatch.setattr(tape.recorder.notices, "log", lambda: said.append(True))
    consumer = SimpleNamespace(
        timer=Timer(),
        app=SimpleNamespace(tasks={}),
        event_dispatcher=None,
        update_strategies=lambda: None,
    )
    step = _consumer_step(capture)(consumer)
    for _ in range(50):
        step.start(consumer)
        consumer.timer.pass_time()
        step.stop(consumer)
    step.start(consumer)
    for _ in range(3):
        consumer.timer.pass_time()
    assert len(consumer.timer.waiting) == 1
    before = len(said)
    consumer.timer.pass_time()
    assert len(said) == before + 1
    step.shutdown(consumer)
    consumer.timer.pass_time()
    assert consumer.timer.waiting == []


# --- messages that are no task of ours ------------------------------------------------------------


def test_the_name_of_an_unknown_task_is_cut_and_cleaned(capture, tape):
    message = SimpleNamespace(headers={"id": "i"}, delivery_info={}, properties={})
    name = "x" * 20_000 + " password=hunter2"
    capture._on_unknown(sender=Worker(), message=message, name=name, id="i")
    capture._on_unknown(sender=Worker(), message=message, name="password=hunter2", id="i")
    assert len(tape.jobs[0].error) <= ERROR_LIMIT
    assert "hunter2" not in tape.jobs[1].error


def consumer_of(**methods):
    told = []
    made = SimpleNamespace(
        hostname="w@host",
        task_consumer=SimpleNamespace(on_decode_error=None),
        on_decode_error=lambda message, exc: told.append((message, exc)),
        on_unknown_task=lambda body, message, exc: told.append((body, message, exc)),
    )
    vars(made).update(methods)
    return made, told


MESSAGE = SimpleNamespace(
    headers={"id": "i", "task": "app.add", "parent_id": "i", "retries": 1},
    delivery_info={"routing_key": "celery"},
    properties={},
    delivery_tag="1",
)


def test_a_message_that_cannot_be_decoded_is_told_of_once(capture, tape):
    consumer, told = consumer_of()
    for _ in range(3):  # the broker is lost, and found again
        consumer.task_consumer = SimpleNamespace(on_decode_error=None)
        capture.discarded.watch(consumer)
    error = ValueError("4111: no JSON")
    consumer.on_decode_error(MESSAGE, error)
    consumer.task_consumer.on_decode_error(MESSAGE, error)
    assert told == [(MESSAGE, error)] * 2
    assert [(job.external_id, job.name, job.state) for job in tape.jobs] == [
        ("i", "app.add", "failed")
    ] * 2
    assert tape.jobs[0].error == "ValueError: the message could not be decoded"
    assert tape.jobs[0].extensions["celeryEvent"] == "task-rejected"


def test_an_unknown_task_is_told_of_although_its_failure_cannot_be_stored(capture, tape):
    def away(body, message, exc):
        raise ConnectionError("no backend")

    consumer, _ = consumer_of(on_unknown_task=away)
    capture.discarded.watch(consumer)
    with pytest.raises(ConnectionError, match="no backend"):
        consumer.on_unknown_task(None, MESSAGE, KeyError("app.add"))
    (job,) = tape.jobs
    assert (job.external_id, job.extensions["celeryEvent"]) == ("i", "task-unknown")


def test_an_unknown_task_that_celery_signals_is_told_of_by_that_alone(capture, tape):
    consumer, told = consumer_of()
    capture.discarded.watch(consumer)
    consumer.on_unknown_task(None, MESSAGE, KeyError("app.add"))
    assert len(told) == 1
    assert tape.jobs == []


def test_a_retry_that_nobody_knows_is_not_its_own_parent(capture, tape):
    capture._on_unknown(sender=Worker(), message=MESSAGE, name="app.add", id="i")
    assert tape.jobs[0].parent_id is None


def test_what_breaks_us_is_counted_and_goes_no_further(capture, tape):
    capture._on_worker_init(sender=None)
    capture._on_unknown(sender=Worker(), message=None, name="n", id="i")
    capture._on_rejected(sender=Worker(), message=object())
    assert tape.notices.faults == 3


# --- tasks that come late -------------------------------------------------------------------------


def test_tasks_that_came_since_are_hooked_before_their_strategies_are_made(capture):
    """`pool_restart` loads modules, and has Celery make the strategies anew."""
    task = SimpleNamespace(Request="celery.worker.request:Request")
    seen = []
    consumer = SimpleNamespace(app=SimpleNamespace(tasks={}), event_dispatcher=None)
    consumer.update_strategies = lambda: seen.append(getattr(task.Request, "__mro__", ())[1:2])
    for _ in range(3):  # the broker is lost, and found again
        capture.consumer_started(consumer)
    seen.clear()
    consumer.app.tasks["late"] = task
    consumer.update_strategies()
    assert seen == [(RequestHook,)]


def test_strategies_are_made_whatever_becomes_of_our_hooks(capture, tape):
    made = []
    consumer = SimpleNamespace(app=SimpleNamespace(tasks={}), event_dispatcher=None)
    consumer.update_strategies = lambda: made.append(True)
    capture.consumer_started(consumer)
    made.clear()
    consumer.app.tasks["broken"] = object()
    consumer.update_strategies()
    assert made == [True]
    assert tape.notices.faults == 1
