"""The wire: whatever the SDK encodes, a receiver with the same types takes, limits included."""

from __future__ import annotations

import datetime as dt
import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.events import (
    ERROR_LIMIT,
    FINAL_STATES,
    ID_LIMIT,
    NAME_LIMIT,
    QUEUE_LIMIT,
    STACKTRACE_LIMIT,
    STATE_OF,
    Envelope,
    Event,
    Job,
    JobState,
    Worker,
    cut,
    cut_front,
    encode_job,
    encode_worker,
    moment,
    task_id,
    utc,
)
from tests.doubles import JOBS, LAW, TEXT, WORKERS, decoded
from tests.harness import CONNECTION_ID

ZONES = st.integers(-1439, 1439).map(lambda n: dt.timezone(dt.timedelta(minutes=n)))
TIMES = st.floats(-2e9, 32e9)
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")


def job(**fields: Any) -> Job:
    return Job(**{"external_id": "i", "name": "n", "state": "queued"} | fields)


def names_in(value: object) -> set[str]:
    """All names of objects in decoded JSON, but for those below extensions and metadata."""
    if isinstance(value, list):
        return {name for item in value for name in names_in(item)}
    if not isinstance(value, dict):
        return set()
    inner = (item for name, item in value.items() if name not in ("extensions", "metadata"))
    return {*value, *names_in(list(inner))}


# --- the contract ---------------------------------------------------------------------------------


@LAW
@given(job=JOBS, at=TIMES)
def test_every_job_event_decodes_to_what_was_encoded(job, at):
    assert decoded(encode_job(CONNECTION_ID, at, job)) == Event(
        type="job_state_change",
        timestamp=moment(at),
        framework="celery",
        connection_id=CONNECTION_ID,
        job=job,
    )


@LAW
@given(worker=WORKERS, at=TIMES)
def test_every_worker_event_decodes_to_what_was_encoded(worker, at):
    assert decoded(encode_worker(CONNECTION_ID, at, worker)) == Event(
        type="worker_state_change",
        timestamp=moment(at),
        framework="celery",
        connection_id=CONNECTION_ID,
        worker=worker,
    )


@LAW
@given(job=JOBS, at=TIMES)
def test_an_event_ends_with_its_extensions(job, at):
    payload = encode_job(CONNECTION_ID, at, job)
    assert payload.endswith(b',"extensions":%b}}' % msgspec.json.encode(job.extensions))


@LAW
@given(worker=WORKERS, at=TIMES)
def test_a_worker_event_ends_with_its_extensions(worker, at):
    payload = encode_worker(CONNECTION_ID, at, worker)
    assert payload.endswith(b',"extensions":%b}}' % msgspec.json.encode(worker.extensions))


def test_a_full_job_has_the_names_of_the_contract():
    when = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    full = Job(
        external_id="id",
        name="app.task",
        state="failed",
        queue="celery",
        previous_state="active",
        worker_id="w@h",
        attempt=2,
        max_retries=3,
        progress=0.5,
        error="ValueError",
        stacktrace="Traceback",
        created_at=when,
        started_at=when,
        completed_at=when,
        scheduled_for=when,
        parent_id="p",
        root_id="r",
        extensions={"celeryEvent": "task-failed"},
    )
    instant = "2026-01-02T03:04:05.678000Z"
    assert json.loads(encode_job(CONNECTION_ID, when.timestamp(), full)) == {
        "type": "job_state_change",
        "timestamp": instant,
        "framework": "celery",
        "connectionId": CONNECTION_ID,
        "job": {
            "externalId": "id",
            "name": "app.task",
            "state": "failed",
            "queue": "celery",
            "previousState": "active",
            "workerId": "w@h",
            "attempt": 2,
            "maxRetries": 3,
            "progress": 0.5,
            "error": "ValueError",
            "stacktrace": "Traceback",
            "createdAt": instant,
            "startedAt": instant,
            "completedAt": instant,
            "scheduledFor": instant,
            "parentId": "p",
            "rootId": "r",
            "extensions": {"celeryEvent": "task-failed"},
        },
    }


def test_a_full_worker_has_the_names_of_the_contract():
    full = Worker(
        external_id="w@h",
        hostname="h",
        pid=7,
        state="busy",
        concurrency=4,
        active_jobs=2,
        queues=["celery"],
        metadata={"pool": "prefork", "loadAverage": [0.5, 1.0, 2.0]},
        extensions={"celeryEvent": "worker-heartbeat"},
    )
    assert json.loads(encode_worker(CONNECTION_ID, 0, full)) == {
        "type": "worker_state_change",
        "timestamp": "1970-01-01T00:00:00Z",
        "framework": "celery",
        "connectionId": CONNECTION_ID,
        "worker": {
            "externalId": "w@h",
            "hostname": "h",
            "pid": 7,
            "state": "busy",
            "concurrency": 4,
            "activeJobs": 2,
            "queues": ["celery"],
            "metadata": {"pool": "prefork", "loadAverage": [0.5, 1.0, 2.0]},
            "extensions": {"celeryEvent": "worker-heartbeat"},
        },
    }


@LAW
@given(job=JOBS, at=TIMES)
def test_names_are_in_camel_case_and_what_is_unknown_is_left_out(job, at):
    event = json.loads(encode_job(CONNECTION_ID, at, job))
    assert all(re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name) for name in names_in(event))
    assert None not in event["job"].values()


@LAW
@given(job=JOBS, at=TIMES)
def test_times_are_utc_and_say_so(job, at):
    event = json.loads(encode_job(CONNECTION_ID, at, job))
    fields = ("createdAt", "startedAt", "completedAt", "scheduledFor")
    times = [event["job"][name] for name in fields if name in event["job"]]
    assert all(INSTANT.fullmatch(time) for time in [event["timestamp"], *times])


@LAW
@given(at=TIMES)
def test_a_moment_is_what_the_clock_said(at):
    assert moment(at).timestamp() == pytest.approx(at, abs=1e-6)
    assert moment(at).tzinfo is UTC


# --- limits ---------------------------------------------------------------------------------------

LIMITS = [
    ("external_id", ID_LIMIT, 512),
    ("name", NAME_LIMIT, 1024),
    ("queue", QUEUE_LIMIT, 255),
    ("worker_id", ID_LIMIT, 512),
    ("error", ERROR_LIMIT, 10_000),
    ("stacktrace", STACKTRACE_LIMIT, 50_000),
    ("parent_id", ID_LIMIT, 512),
    ("root_id", ID_LIMIT, 512),
]


@pytest.mark.parametrize(("field", "limit", "documented"), LIMITS)
def test_a_text_at_its_limit_is_taken_and_one_beyond_it_refused(field, limit, documented):
    assert limit == documented
    decoded(encode_job(CONNECTION_ID, 0, job(**{field: "\u00fc" * limit})))
    with pytest.raises(msgspec.ValidationError, match=f"length <= {limit}"):
        decoded(encode_job(CONNECTION_ID, 0, job(**{field: "\u00fc" * (limit + 1)})))


@pytest.mark.parametrize(
    "fields",
    [
        {"external_id": ""},
        {"name": ""},
        {"attempt": 0},
        {"max_retries": -1},
        {"progress": 1.01},
        {"progress": -0.01},
        {"state": "exploded"},
        {"previous_state": "exploded"},
        {"attempt": "1"},
        {"extensions": {"a": [1]}},
    ],
)
def test_a_value_outside_the_contract_is_refused_by_the_receiver(fields):
    with pytest.raises(msgspec.ValidationError):
        decoded(encode_job(CONNECTION_ID, 0, job(**fields)))


@LAW
@given(text=TEXT, limit=st.integers(1, 80))
def test_cut_keeps_the_beginning_within_the_limit(text, limit):
    short = cut(text, limit)
    assert len(short) <= limit
    assert short == text if len(text) <= limit else short == text[: limit - 1] + "\u2026"


@LAW
@given(text=TEXT, limit=st.integers(1, 80))
def test_cut_front_keeps_the_end_within_the_limit(text, limit):
    short = cut_front(text, limit)
    assert len(short) <= limit
    if len(text) > limit:
        assert short[0] == "\u2026"
        assert text.endswith(short[1:])
        assert len(short) == limit
    else:
        assert short == text


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("the-id", "the-id"),
        (uuid.UUID(int=7), str(uuid.UUID(int=7))),
        (4242, "4242"),
        ("i" * 512, "i" * 512),
        ("i" * 600, "i" * 511 + "\u2026"),
        ("", None),
        (None, None),
    ],
)
def test_an_id_is_a_text_within_its_limit_or_nothing(value, wanted):
    assert task_id(value) == wanted


@pytest.mark.parametrize("value", [object(), ["id"], 1.5, b"id"])
def test_what_is_no_id_is_an_error(value):
    with pytest.raises(TypeError, match="no task id"):
        task_id(value)


@LAW
@given(time=st.datetimes(timezones=ZONES).filter(lambda time: 1 < time.year < 9999))
def test_utc_is_the_same_moment_in_utc(time):
    assert utc(time) == time
    assert utc(time).tzinfo is UTC


def test_a_time_without_a_zone_is_taken_for_utc():
    naive = dt.datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001  as an app without UTC writes it
    assert utc(naive) == naive.replace(tzinfo=UTC)
    assert utc(None) is None


# --- states ---------------------------------------------------------------------------------------


def test_states_are_those_of_the_contract():
    assert set(get_args(JobState)) == {
        *("unknown", "queued", "scheduled", "active"),
        *("completed", "failed", "retrying", "cancelled"),
    }
    assert {
        "task-sent": "queued",
        "task-received": "queued",
        "task-started": "active",
        "task-succeeded": "completed",
        "task-failed": "failed",
        "task-rejected": "failed",
        "task-unknown": "failed",
        "task-retried": "retrying",
        "task-revoked": "cancelled",
    }.items() <= STATE_OF.items()
    assert set(STATE_OF.values()) <= set(get_args(JobState))


def test_an_attempt_ends_with_the_four_final_states():
    assert frozenset({"completed", "failed", "retrying", "cancelled"}) == FINAL_STATES


# --- what cannot be written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "fields", "error"),
    [
        (0, {"name": "half a pair \ud800"}, UnicodeEncodeError),
        (0, {"extensions": {"a": object()}}, TypeError),
        (float("nan"), {}, ValueError),
        (float("inf"), {}, OverflowError),
        (1e18, {}, (OSError, OverflowError, ValueError)),
        (253_402_300_800, {}, ValueError),
    ],
)
def test_what_cannot_be_encoded_raises_as_documented(at, fields, error):
    with pytest.raises(error):
        encode_job(CONNECTION_ID, at, job(**fields))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_know_becomes_null(value):
    event = decoded(encode_job(CONNECTION_ID, 0, job(extensions={"a": value})))
    assert event.job is not None
    assert event.job.extensions == {"a": None}


def test_the_envelope_is_a_list_of_events():
    payload = encode_job(CONNECTION_ID, 0, job())
    body = b'{"events":[%b,%b]}' % (payload, payload)
    assert len(msgspec.json.decode(body, type=Envelope).events) == 2
