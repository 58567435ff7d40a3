"""What was told: a request's or a message's bytes -> which task, and what of it.

One function per protocol, each pure, and :class:`Tally`, which counts distinct tasks.  The words
are the same for all: sent, received, started, succeeded, failed, retried, revoked, rejected,
ignored.  A span or a transaction that has ended tells both that its task started and how it
ended: at once, and after the fact.
"""

from __future__ import annotations

import gzip
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from benchmarks.protobuf import Fields, fields, text

#: What of which task.
Told = tuple[str, str]

#: What is no task's, such as a worker's heartbeat or the depth of a queue.
OTHER: Final = ("other", "")

_json: Final = msgspec.json.Decoder().decode

_CELERY: Final = {
    "task-sent": "sent",
    "task-received": "received",
    "task-started": "started",
    "task-succeeded": "succeeded",
    "task-failed": "failed",
    "task-retried": "retried",
    "task-revoked": "revoked",
    "task-cancelled": "revoked",
    "task-rejected": "rejected",
    "task-unknown": "rejected",
    "task-ignored": "ignored",
}
_STATES: Final = {
    "PENDING": "sent",
    "RECEIVED": "received",
    "STARTED": "started",
    "SUCCESS": "succeeded",
    "FAILURE": "failed",
    "RETRY": "retried",
    "REVOKED": "revoked",
    "REJECTED": "rejected",
    "IGNORED": "ignored",
}


def celery_event(event: dict[str, Any]) -> Told:
    """One of Celery's own events, or what has its field names: celeryradar's."""
    what = _CELERY.get(event.get("type", ""))
    task = event.get("uuid") or event.get("task_id")
    return (what, task) if what and task else OTHER


def celeryradar(body: bytes) -> Iterator[Told]:
    """celeryradar-sdk: a request is one event."""
    yield celery_event(_json(body))


def sluice(body: bytes) -> Iterator[Told]:
    """Sluice, and sluice-celery: ``{"events": [{"job": {...}}, ...]}``.

    Both tell in the extensions what Celery called it; the state alone has one word for a task
    that was sent and for one that was received.
    """
    for event in _json(body)["events"]:
        job = event.get("job")
        extensions = job.get("extensions", {}) if job else {}
        what = _CELERY.get(extensions.get("celeryEvent", ""))
        what = what or _STATES.get(extensions.get("celeryState", ""))
        yield (what, job["externalId"]) if what else OTHER


def sentry(body: bytes) -> Iterator[Told]:
    """sentry-sdk: an envelope, which is a line of headers and then items with a header each.

    A transaction is a task, which a tag names; its spans have the messages that it published.
    An error is an item too, of the same tag, so that a failure is told twice.
    """
    begin = body.index(b"\n") + 1
    while begin < len(body):
        end = body.index(b"\n", begin)
        header = _json(body[begin:end])
        begin = end + 1
        size = header.get("length")
        if size is None:
            end = body.find(b"\n", begin)
            size = (len(body) if end < 0 else end) - begin
        if header.get("type") in {"transaction", "event"}:
            yield from _sentry_event(_json(body[begin : begin + size]))
        else:
            yield OTHER
        begin += size + 1


def _sentry_event(event: dict[str, Any]) -> Iterator[Told]:
    task = event.get("tags", {}).get("celery_task_id")
    if not task:
        yield OTHER
        return
    if event.get("type") != "transaction":
        yield "failed", task
        return
    status = event.get("contexts", {}).get("trace", {}).get("status")
    yield "started", task
    # "aborted" is what the integration says of Retry, Ignore and Reject alike.
    yield {"ok": "succeeded", "aborted": "retried"}.get(status, "failed"), task
    for span in event.get("spans", ()):
        sent = span.get("data", {}).get("messaging.message.id")
        if sent and span.get("op") == "queue.publish":
            yield "sent", sent


# OTLP's numbers of fields, and its values of enumerations (its trace.proto and common.proto).
_RESOURCE_SPANS, _SCOPE_SPANS, _SPANS = 1, 2, 2
_SPAN_KIND, _SPAN_ATTRIBUTES, _SPAN_STATUS = 6, 9, 15
_ATTRIBUTE_KEY, _ATTRIBUTE_VALUE, _VALUE_STRING = 1, 2, 1
_STATUS_CODE, _STATUS_ERROR = 3, 2
_KIND_PRODUCER, _KIND_CONSUMER = 4, 5


def opentelemetry(body: bytes) -> Iterator[Told]:
    """OTLP's ExportTraceServiceRequest: a task is a consumer's span, a message a producer's."""
    for resource_spans in fields(body).get(_RESOURCE_SPANS, ()):
        for scope_spans in fields(resource_spans).get(_SCOPE_SPANS, ()):
            for span in fields(scope_spans).get(_SPANS, ()):
                yield from _span(fields(span))


def _span(span: Fields) -> Iterator[Told]:
    attributes = {
        text(pair.get(_ATTRIBUTE_KEY)): text(
            fields(pair.get(_ATTRIBUTE_VALUE, [b""])[0]).get(_VALUE_STRING)
        )
        for pair in map(fields, span.get(_SPAN_ATTRIBUTES, ()))
    }
    task = attributes.get("messaging.message.id") or attributes.get("messaging.message_id")
    kind = span.get(_SPAN_KIND, [0])[0]
    if task and kind == _KIND_PRODUCER:
        yield "sent", task
    elif task and kind == _KIND_CONSUMER:
        yield "started", task
        code = fields(span.get(_SPAN_STATUS, [b""])[0]).get(_STATUS_CODE, [0])[0]
        ended = "failed" if code == _STATUS_ERROR else "succeeded"
        yield _STATES.get(attributes.get("celery.state", ""), ended), task
    else:
        yield OTHER


def celery_events(payload: bytes) -> Iterator[Told]:
    """A message of Celery's event exchange, as kombu wraps it: one event, or a list of them."""
    message = _json(payload)
    body = message["body"]
    if message.get("properties", {}).get("body_encoding") == "base64":
        body = b64decode(body)
    events = _json(body)
    for event in events if isinstance(events, list) else [events]:
        yield celery_event(event)


def stemtrace(payload: bytes) -> Iterator[Told]:
    """The ``data`` of an entry of stemtrace's stream."""
    event = _json(payload)
    what = _STATES.get(event.get("state", ""))
    yield (what, event["task_id"]) if what else OTHER


def inflated(body: bytes, encoding: str) -> bytes:
    """`body` as it was before ``Content-Encoding``.  Raises :class:`ValueError` for others."""
    if encoding in {"", "identity"}:
        return body
    if encoding == "gzip":
        return gzip.decompress(body)
    if encoding == "deflate":
        return zlib.decompress(body)
    raise ValueError(f"a body in {encoding!r} cannot be read")


def of_path(path: str) -> Callable[[bytes], Iterator[Told]]:
    """Whose requests go there.  Raises :class:`ValueError` for a path that is nobody's."""
    path = path.partition("?")[0]
    if path == "/api/ingest":
        return sluice
    if path == "/ingest/":
        return celeryradar
    if path == "/v1/traces":
        return opentelemetry
    if path.startswith("/api/") and path.endswith("/envelope/"):
        return sentry
    raise ValueError(f"nobody's requests go to {path!r}")


class Tally:
    """Which tasks were told as what, how often, and what could not be read."""

    def __init__(self) -> None:
        self._tasks: dict[str, set[str]] = {}
        self._events = 0
        self._other = 0
        self._unreadable = 0
        self._first_error = ""

    def add(self, decode: Callable[[bytes], Iterator[Told]], body: bytes) -> None:
        """Count what `body` tells.  What cannot be read is counted as such."""
        try:
            told = list(decode(body))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            self.unreadable(error)
            return
        for what, task in told:
            if task:
                self._events += 1
                self._tasks.setdefault(what, set()).add(task)
            else:
                self._other += 1

    def unreadable(self, error: Exception) -> None:
        """Count a request or a message that nobody understands."""
        self._unreadable += 1
        self._first_error = self._first_error or f"{type(error).__name__}: {error}"

    def counts(self) -> dict[str, Any]:
        """``tasks`` by what was told of them, all distinct; ``events`` told, repeated ones too."""
        distinct = sum(map(len, self._tasks.values()))
        return {
            "tasks": {what: len(tasks) for what, tasks in sorted(self._tasks.items())},
            "events": self._events,
            "repeated": self._events - distinct,
            "other": self._other,
            "unreadable": self._unreadable,
            "first_error": self._first_error,
        }
