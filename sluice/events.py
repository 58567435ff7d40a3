"""The wire: what one event looks like, how long each part may be, which state is which.

These types are the one definition of the ingest contract in code.  The SDK encodes them;
a receiver decodes with the same ones, and then the limits in the annotations are checked
(msgspec checks them when it decodes, not when it encodes: the makers of events cut).
Pure: no clock, no Celery, no I/O.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec

ERROR_LIMIT: Final = 10_000
STACKTRACE_LIMIT: Final = 50_000
ID_LIMIT: Final = 512
NAME_LIMIT: Final = 1024
QUEUE_LIMIT: Final = 255
#: Characters of one value in ``extensions``, and how many unknown fields are taken along.
EXTENSION_LIMIT: Final = 500
UNKNOWN_FIELDS_LIMIT: Final = 20

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LIMIT)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_LIMIT)]
QueueName = Annotated[str, msgspec.Meta(max_length=QUEUE_LIMIT)]
ErrorText = Annotated[str, msgspec.Meta(max_length=ERROR_LIMIT)]
Stacktrace = Annotated[str, msgspec.Meta(max_length=STACKTRACE_LIMIT)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Scalar = str | int | float | bool | None

JobState = Literal[
    "unknown", "queued", "scheduled", "active", "completed", "failed", "retrying", "cancelled"
]
WorkerState = Literal["online", "busy", "idle", "offline"]

#: Celery's event type -> the unified state.  ``task-rejected`` is final only without
#: requeue, and ``task-received`` is ``scheduled`` with a future ETA: the capture decides.
STATE_OF: Final[dict[str, JobState]] = {
    "task-sent": "queued",
    "task-received": "queued",
    "task-started": "active",
    "task-succeeded": "completed",
    "task-failed": "failed",
    "task-retried": "retrying",
    "task-rejected": "failed",
    "task-revoked": "cancelled",
    "task-cancelled": "cancelled",
    "task-unknown": "failed",
    "task-ignored": "completed",
    "task-replaced": "retrying",
}
_DELAY: Final = re.compile(r"(?:[01]\.){28}")
#: After one of these an attempt has ended.
FINAL_STATES: Final[frozenset[JobState]] = frozenset(
    ("completed", "failed", "retrying", "cancelled")
)


class Job(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True, gc=False):
    """One task at one moment of its life.

    ``extensions`` stays the last field: the sender adds the event id behind its last
    entry without decoding the record (see :mod:`sluice.batch`).
    """

    external_id: Id
    name: Name
    state: JobState
    queue: QueueName | None = None
    previous_state: JobState | None = None
    worker_id: Id | None = None
    attempt: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_retries: Count | None = None
    progress: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    error: ErrorText | None = None
    stacktrace: Stacktrace | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    scheduled_for: datetime | None = None
    parent_id: Id | None = None
    root_id: Id | None = None
    extensions: dict[str, Scalar] = {}


class Worker(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True):
    """One worker at one moment.  ``extensions`` stays the last field, as in :class:`Job`."""

    external_id: Id
    hostname: str
    pid: int
    state: WorkerState
    concurrency: Count | None = None
    active_jobs: Count | None = None
    queues: list[QueueName] | None = None
    metadata: dict[str, Scalar | list[float]] | None = None
    extensions: dict[str, Scalar | list[dict[str, Scalar]]] = {}


class Queue(msgspec.Struct, omit_defaults=True, rename="camel", kw_only=True):
    """One queue at one moment."""

    name: QueueName
    depth: Count | None = None
    consumers: Count | None = None


class Event(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """One entry of a request's ``events``: exactly one of `job`, `worker`, `queue` is there."""

    type: Literal["job_state_change", "worker_state_change", "queue_snapshot"]
    timestamp: datetime
    framework: Literal["celery"]
    connection_id: str
    job: Job | None = None
    worker: Worker | None = None
    queue: Queue | None = None


class Envelope(msgspec.Struct):
    """The body of ``POST /ingest``."""

    events: list[Event]


_encode = msgspec.json.Encoder().encode
_moment = datetime.fromtimestamp


def encode_job(connection_id: str, at: float, job: Job) -> bytes:
    """The JSON of a job event.  `at` is Unix time in seconds.

    Raises whatever msgspec raises for text that is not Unicode or a value of a foreign
    type (:class:`UnicodeEncodeError`, :class:`TypeError`), and :class:`OverflowError`,
    :class:`ValueError` or :class:`OSError` for a time outside the calendar.
    """
    # By position: this runs for every event, and keywords would cost as much as the time.
    return _encode(Event("job_state_change", _moment(at, UTC), "celery", connection_id, job))


def encode_worker(connection_id: str, at: float, worker: Worker) -> bytes:
    """The JSON of a worker event.  `at` is Unix time in seconds.  Raises as `encode_job`."""
    when = _moment(at, UTC)
    return _encode(Event("worker_state_change", when, "celery", connection_id, worker=worker))


def moment(unix_time: float) -> datetime:
    """Unix time in seconds as an aware UTC time, which msgspec writes with a ``Z``."""
    return datetime.fromtimestamp(unix_time, UTC)


def utc(time: datetime | None) -> datetime | None:
    """The same moment in UTC; one without a zone is taken for UTC, as Celery does."""
    if time is None:
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def attempt_number(retries: object) -> int:
    """Which attempt it is, from 1, by a count of retries that a message may have as anything."""
    if isinstance(retries, float) and retries.is_integer():
        retries = int(retries)
    return retries + 1 if type(retries) is int and retries >= 0 else 1


def retry_limit(most: object) -> int | None:
    """A task's `max_retries`, where that is a number of retries; None where it is no limit."""
    return most if type(most) is int and most >= 0 else None


def queue_name(routing_key: object) -> str | None:
    """The queue that a routing key leads to.

    For a delayed message on RabbitMQ's quorum queues Celery 5.5 puts the 28 bits of the delay
    before it (kombu.transport.native_delayed_delivery).
    """
    if not routing_key:
        return None
    name = str(routing_key)
    if name.startswith(("0.", "1.")):
        name = _DELAY.sub("", name)
    return cut(name, QUEUE_LIMIT)


def exchange_name(exchange: object) -> str:
    """What an exchange, or the name of one, is called."""
    return str(getattr(exchange, "name", exchange))


def task_id(value: object) -> str | None:
    """A task's id as the wire has it: a text within its limit, or None for an empty one.

    Raises :class:`TypeError` for what is no id.
    """
    if not value:
        return None
    if not isinstance(value, (str, int, UUID)):
        raise TypeError(f"a {type(value).__name__} is no task id")
    return cut(str(value), ID_LIMIT)


def cut(text: str, limit: int) -> str:
    """The beginning of `text`, at most `limit` characters, with a mark where it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cut_front(text: str, limit: int) -> str:
    """The end of `text`: of a traceback, the part that names the fault."""
    return text if len(text) <= limit else "…" + text[len(text) - limit + 1 :]
