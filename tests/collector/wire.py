"""Events as a sender writes them: dicts for a body, and decoded ones for the parts behind it."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from sluice.events import Event
from tests.harness import CONNECTION_ID

_numbers = itertools.count(1)
_decode = msgspec.json.Decoder(Event).decode

Wire = dict[str, Any]


def stamp(at: float) -> str:
    """Unix time in seconds as the wire has it."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _subject(fields: Mapping[str, Any], extensions: Mapping[str, Any]) -> Wire:
    """`fields` without those that are None; times in seconds become texts."""
    times = ("createdAt", "startedAt", "completedAt", "scheduledFor")
    found = {
        name: stamp(value) if name in times and isinstance(value, (int, float)) else value
        for name, value in fields.items()
        if value is not None
    }
    return found | {"extensions": {"eventId": f"e-{next(_numbers)}"} | dict(extensions)}


def _event(kind: str, at: float | str | None, **subject: Any) -> Wire:
    at = time.time() if at is None else at
    return {
        "type": kind,
        "timestamp": at if isinstance(at, str) else stamp(at),
        "framework": "celery",
        "connectionId": CONNECTION_ID,
        **subject,
    }


def job(
    task: str,
    state: str,
    at: float | str | None = None,
    *,
    extensions: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Wire:
    """An event of a task, with an event id of its own.  Fields have their names of the wire."""
    fields = {"name": "orders.charge", "attempt": 1} | fields
    subject = _subject({"externalId": task, "state": state, **fields}, extensions or {})
    return _event("job_state_change", at, job=subject)


def worker(
    name: str,
    state: str,
    at: float | str | None = None,
    *,
    extensions: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Wire:
    """An event of a worker, with an event id of its own."""
    fields = {"hostname": name.rpartition("@")[2] or name, "pid": 7} | fields
    subject = _subject({"externalId": name, "state": state, **fields}, extensions or {})
    return _event("worker_state_change", at, worker=subject)


def queue(name: str, at: float | str | None = None, **fields: Any) -> Wire:
    """A snapshot of a queue."""
    return _event("queue_snapshot", at, queue={"name": name, **fields})


def body(*events: Wire) -> bytes:
    """The body of a request."""
    return json.dumps({"events": events}).encode()


def decoded(event: Wire) -> Event:
    """The event as the collector has it after intake."""
    return _decode(json.dumps(event))


def taken(events: Iterable[Wire]) -> list[tuple[Event, bytes]]:
    """A batch as `Store.take` and `Writer.offer` take it: each event and its bytes."""
    bodies = [json.dumps(event).encode() for event in events]
    return [(_decode(one), one) for one in bodies]


def whole_answer(client: socket.socket) -> bytes:
    """One whole answer of JSON, in however many parts it comes."""
    said = b""
    while not said.endswith(b"}") and (part := client.recv(65536)):
        said += part
    return said
