"""`sent`: what the publishing side of any process reports of a task."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, chain, signals
from hypothesis import given
from hypothesis import strategies as st

import sluice.capture.producer
from sluice.capture.producer import ProducerCapture
from sluice.events import moment
from tests.doubles import LAW, Tape
from tests.harness import client_app

CANARY = "canary-4111-1111-1111-1111"
HEADERS = {"task": "app.add", "id": "the-id", "retries": 0, "root_id": "root", "parent_id": "mum"}


class Clock:
    """Time that a test sets."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Sending:
    """A capture that was not connected to Celery: the test calls what Celery would."""

    def __init__(self, **tape):
        self.tape = Tape(**tape)
        self.clock = Clock()
        self.capture = ProducerCapture(self.tape.recorder, clock=self.clock)

    def publish(self, headers, body=((), {}, {}), *, began=None, ended=None, **kwargs):
        self.clock.now = began or self.clock.now
        self.capture.before_publish(headers=headers, body=body)
        self.clock.now = ended or self.clock.now
        sending = {"sender": "app.add", "exchange": "", "routing_key": "celery"}
        self.capture.after_publish(headers=headers, body=body, **sending | kwargs)


@pytest.fixture(autouse=True)
def _no_app(monkeypatch):
    """Whatever app other tests have left behind as the current one, it is none of ours."""
    nobody = SimpleNamespace(finalized=False)
    monkeypatch.setattr(sluice.capture.producer, "get_current_app", lambda: nobody)


@pytest.fixture
def sending():
    return Sending()


def fields(job) -> dict:
    return {name: getattr(job, name) for name in job.__struct_fields__ if getattr(job, name)}


# --- one message ----------------------------------------------------------------------------------


def test_a_sent_task_is_queued(sending):
    sending.publish(HEADERS, exchange="tasks", routing_key="high", began=7.0)
    event = sending.tape.event
    assert event.timestamp == moment(7.0)
    assert fields(event.job) == {
        "external_id": "the-id",
        "name": "app.add",
        "state": "queued",
        "queue": "high",
        "attempt": 1,
        "created_at": moment(7.0),
        "parent_id": "mum",
        "root_id": "root",
        "extensions": {"celeryEvent": "task-sent", "exchange": "tasks"},
    }


def test_the_time_is_that_before_the_broker_was_asked(sending):
    sending.publish(HEADERS, began=7.0, ended=9.0)
    assert sending.tape.event.timestamp == moment(7.0)


def test_a_message_whose_beginning_was_missed_has_the_time_of_its_end(sending):
    sending.clock.now = 9.0
    sending.capture.after_publish(headers=HEADERS, sender="app.add", routing_key="q")
    assert sending.tape.event.timestamp == moment(9.0)


def test_nothing_is_reported_before_the_broker_has_the_message(sending):
    sending.capture.before_publish(headers=HEADERS)
    assert sending.tape.events == []


def test_the_default_exchange_has_no_name(sending):
    sending.publish(HEADERS, exchange="")
    assert sending.tape.event.job.extensions == {"celeryEvent": "task-sent"}


def test_retries_count_as_attempts(sending):
    sending.publish(HEADERS | {"retries": 2})
    sending.publish(HEADERS | {"retries": None})
    assert [job.attempt for job in sending.tape.jobs] == [3, 1]


def test_an_eta_says_when_the_task_is_due(sending):
    sending.publish(HEADERS | {"eta": "2026-01-02T03:04:05.678+00:00"})
    due = sending.tape.event.job.scheduled_for
    assert due == datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def test_an_eta_in_another_time_zone_is_sent_as_utc(sending):
    sending.publish(HEADERS | {"eta": "2026-01-02T03:04:05+02:00"})
    assert b'"scheduledFor":"2026-01-02T01:04:05Z"' in sending.tape.payloads[0]


def test_an_eta_without_a_time_zone_is_utc(sending):
    sending.publish(HEADERS | {"eta": "2026-01-02T03:04:05"})
    assert b'"scheduledFor":"2026-01-02T03:04:05Z"' in sending.tape.payloads[0]


def test_a_shadow_name_is_the_name(sending):
    sending.publish(HEADERS | {"shadow": "renamed"})
    assert sending.tape.event.job.name == "renamed"


def test_a_message_of_protocol_1_is_read_from_its_body(sending):
    body = {"task": "app.add", "id": "old", "retries": 1, "args": [CANARY], "kwargs": {}}
    sending.publish({}, body, began=3.0)
    job = sending.tape.event.job
    assert (job.external_id, job.name, job.attempt) == ("old", "app.add", 2)
    assert sending.tape.event.timestamp == moment(3.0)


def test_long_names_are_cut_to_the_limits(sending):
    # Tape decodes as a receiver does, so a text beyond its limit would be an error.
    sending.publish(HEADERS | {"id": "i" * 600}, sender="n" * 2000, routing_key="q" * 300)
    job = sending.tape.event.job
    assert (len(job.external_id), len(job.name), len(job.queue)) == (512, 1024, 255)


@pytest.mark.parametrize(("value", "length"), [("i" * 600, 512), ("", None), (None, None)])
@pytest.mark.parametrize("name", ["parent_id", "root_id"])
def test_parent_and_root_ids_keep_to_the_limits(sending, name, value, length):
    sending.publish(HEADERS | {name: value})
    found = getattr(sending.tape.event.job, name)
    assert (found and len(found)) == length


def test_a_task_that_retries_itself_is_not_its_own_parent(sending):
    sending.publish(HEADERS | {"parent_id": "the-id"})
    assert sending.tape.event.job.parent_id is None


@pytest.mark.parametrize("value", [uuid.UUID(int=7), 4242])
def test_an_id_that_is_no_text_is_written_as_one(sending, value):
    sending.publish(HEADERS | {"id": value, "root_id": value}, began=5.0, ended=6.0)
    event = sending.tape.event
    assert (event.job.external_id, event.job.root_id) == (str(value), str(value))
    assert event.timestamp == moment(5.0)


# --- max_retries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "wanted"), [(3, 3), (0, 0), (None, None), ("many", None)])
def test_max_retries_are_those_of_a_task_that_is_known_here(sending, monkeypatch, most, wanted):
    app = SimpleNamespace(finalized=True, tasks={"app.add": SimpleNamespace(max_retries=most)})
    monkeypatch.setattr(sluice.capture.producer, "get_current_app", lambda: app)
    sending.publish(HEADERS)
    sending.publish(HEADERS, sender="app.unknown")
    assert [job.max_retries for job in sending.tape.jobs] == [wanted, None]


def test_max_retries_of_a_shadowed_task_are_found_by_its_real_name(sending, monkeypatch):
    app = SimpleNamespace(finalized=True, tasks={"app.add": SimpleNamespace(max_retries=7)})
    monkeypatch.setattr(sluice.capture.producer, "get_current_app", lambda: app)
    sending.publish(HEADERS | {"shadow": "renamed"})
    assert sending.tape.event.job.max_retries == 7


def test_an_app_is_never_made_to_load_its_tasks(sending, monkeypatch):
    app = Celery("lazy", set_as_current=False)
    monkeypatch.setattr(sluice.capture.producer, "get_current_app", lambda: app)
    sending.publish(HEADERS)
    assert len(sending.tape.events) == 1
    assert not app.finalized


# --- what must not happen -------------------------------------------------------------------------


@LAW
@given(
    data=st.recursive(
        st.just(CANARY), lambda inner: st.lists(inner) | st.dictionaries(st.just(CANARY), inner)
    )
)
def test_no_argument_is_ever_reported(data):
    sending = Sending()
    headers = HEADERS | {"argsrepr": repr(data), "kwargsrepr": repr(data), "x-header": data}
    headers |= {"stamps": data, "meta": data, "properties": data}
    sending.publish(headers, (data, {"kwarg": data}, {}))
    sending.publish({}, HEADERS | {"args": data, "kwargs": data})
    assert len(sending.tape.payloads) == 2
    assert CANARY.encode() not in b"".join(sending.tape.payloads)


@pytest.mark.parametrize("headers", [None, {}, {"task": "t"}, {"task": "t", "id": object()}, 7])
@pytest.mark.parametrize("body", [None, (), {}])
def test_a_message_that_makes_no_sense_is_a_fault_and_not_an_error(sending, headers, body):
    sending.publish(headers, body)
    assert sending.tape.notices.faults >= 1
    assert sending.tape.events == []


def test_an_eta_that_makes_no_sense_is_a_fault_and_not_an_error(sending):
    sending.publish(HEADERS | {"eta": "soon"})
    assert sending.tape.notices.faults == 1


@pytest.mark.parametrize("signal", ["before_publish", "after_publish"])
def test_a_soft_time_limit_of_the_task_goes_through(sending, signal):
    def interrupted():
        raise SoftTimeLimitExceeded

    capture = ProducerCapture(sending.tape.recorder, clock=interrupted)
    with pytest.raises(SoftTimeLimitExceeded):
        getattr(capture, signal)(headers=HEADERS, sender="t", routing_key="q")
    assert sending.tape.notices.faults == 0


def test_publications_that_never_end_are_forgotten(sending):
    for n in range(5000):
        sending.capture.before_publish(headers=HEADERS | {"id": str(n)})
    assert len(sending.capture._begun) <= 1000
    sending.publish(HEADERS, began=5.0, ended=6.0)
    assert sending.tape.event.timestamp == moment(5.0)


def test_a_publication_that_has_ended_is_forgotten(sending):
    sending.publish(HEADERS)
    assert sending.capture._begun == {}


def test_what_waits_to_be_said_is_logged_when_a_task_is_sent(sending, caplog):
    sending.tape.notices.add("a", "something to say")
    sending.publish(HEADERS)
    assert caplog.messages == ["something to say"]


# --- Celery itself --------------------------------------------------------------------------------


@pytest.fixture
def connected():
    """A capture that listens to this process's Celery, until the test is over."""
    tape = Tape()
    capture = ProducerCapture(tape.recorder)
    capture.connect()
    capture.connect()
    yield tape
    assert signals.before_task_publish.disconnect(dispatch_uid="sluice.before_task_publish")
    assert signals.after_task_publish.disconnect(dispatch_uid="sluice.after_task_publish")


@pytest.mark.parametrize("protocol", [1, 2])
def test_celery_reports_a_task_once_however_often_we_connect(connected, protocol):
    with client_app("memory://") as app:
        app.conf.task_protocol = protocol
        sent = app.send_task("app.add", (CANARY,), {"b": CANARY}, queue="high", countdown=60)
    job = connected.event.job
    assert (job.external_id, job.name, job.queue) == (sent.id, "app.add", "high")
    assert job.scheduled_for > job.created_at
    assert connected.notices.faults == 0
    assert CANARY.encode() not in connected.payloads[0]


def test_celery_reports_the_whole_of_a_chain(connected):
    with client_app("memory://") as app:
        tasks = [app.signature(name, args=(CANARY,), immutable=True) for name in ("a", "b")]
        result = chain(*tasks, app=app).apply_async()
    # Only the first is sent; the second is the first one's business.
    assert connected.event.job.external_id == result.parent.id
    assert connected.event.job.root_id == result.parent.id
    assert CANARY.encode() not in connected.payloads[0]


def test_nothing_is_put_into_the_message(connected):
    plain, captured = [], []
    signals.before_task_publish.connect(
        lambda headers=None, properties=None, **_: captured.append((dict(headers), properties)),
        dispatch_uid="test",
        weak=False,
    )
    try:
        with client_app("memory://") as app:
            app.send_task("app.add", task_id="one")
            signals.before_task_publish.disconnect(dispatch_uid="sluice.before_task_publish")
            app.send_task("app.add", task_id="one")
            plain.append(captured.pop())
    finally:
        signals.before_task_publish.disconnect(dispatch_uid="test")
        ProducerCapture(connected.recorder).connect()
    assert set(captured[0][0]) == set(plain[0][0])
    assert set(captured[0][1]) == set(plain[0][1])
