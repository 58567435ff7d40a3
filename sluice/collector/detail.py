"""One task with all that is known of it: its attempts, its family, its events.

Attempts are read from the events as they came, so that what a row sums up can be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from sluice.collector import listing
from sluice.collector.schema import events, fact, tasks
from sluice.collector.story import TERMINAL, seconds
from sluice.events import FINAL_STATES, Event

_MOST_EVENTS: Final = 1000
_MOST_FAMILY: Final = 200
_MOST_ANCESTORS: Final = 50

_decode = msgspec.json.Decoder(Event).decode


def job(connection: sa.Connection, task: str, usual: Mapping[str, float]) -> dict[str, Any] | None:
    """The answer to ``GET /api/jobs/ID``; None where nothing was heard of it."""
    row = connection.execute(sa.select(*listing.COLUMNS).where(tasks.c.id == task)).one_or_none()
    if row is None:
        return None
    silent = listing.silent_workers(connection, {row.worker})
    found = connection.execute(
        sa.select(events.c.seq, events.c.received, events.c.at, events.c.body)
        .where(events.c.task == task)
        .order_by(events.c.at.desc(), events.c.seq.desc())
        .limit(_MOST_EVENTS)
    ).all()[::-1]
    told = [_decode(one.body) for one in found]
    last = next((one.job for one in reversed(told) if one.job and one.job.error), None)
    shown = listing.job(row, usual, silent)
    if last is not None and shown["error"] is not None:
        shown["error"] = last.error
    return {
        **shown,
        "stacktrace": last.stacktrace if last and shown["error"] is not None else None,
        "retries": row.retries,
        "attempts": attempts(told),
        "family": family(connection, row),
        "events": [_as_it_came(one) for one in found],
    }


def _as_it_came(row: Any) -> dict[str, Any]:
    """A row of the events' table as the API shows it."""
    return {
        "seq": row.seq,
        "receivedAt": listing.iso(row.received),
        "event": msgspec.Raw(row.body.encode()),
    }


def attempts(told: Iterable[Event]) -> list[dict[str, Any]]:
    """What each attempt came to, by its events.  Pure."""
    found: dict[int, dict[str, Any]] = {}
    for event in told:
        job, at = event.job, seconds(event.timestamp)
        if job is None or at is None:
            continue
        one = found.setdefault(job.attempt or 1, dict.fromkeys(_FIELDS))
        sent = job.extensions.get("celeryEvent") == "task-sent"
        if job.state in ("queued", "scheduled", "unknown"):
            one["queued"] = min(at, one["queued"] or at)
        if not sent or one["state"] is None:
            if one["state"] not in TERMINAL:
                one["state"] = job.state
            one["worker"] = job.worker_id or one["worker"]
        one["scheduled"] = seconds(job.scheduled_for) or one["scheduled"]
        one["started"] = seconds(job.started_at) or one["started"]
        if job.state in FINAL_STATES:
            one["ended"] = seconds(job.completed_at) or at
            named = job.extensions.get("exceptionClass")
            one["exception"] = named if isinstance(named, str) else None
            one["error"], one["stacktrace"] = job.error, job.stacktrace
        elif job.state == "active":  # once more: the last one was given back
            one["ended"] = None if one["state"] not in TERMINAL else one["ended"]
    return [_attempt(number, found[number]) for number in sorted(found)]


_FIELDS: Final = (
    *("queued", "scheduled", "started", "ended", "state", "worker"),
    *("error", "exception", "stacktrace"),
)


def _attempt(number: int, one: Mapping[str, Any]) -> dict[str, Any]:
    started, ended = one["started"], one["ended"]
    ready = one["queued"]
    if ready is not None and one["scheduled"] is not None:
        ready = max(ready, one["scheduled"])
    return {
        "attempt": number,
        "state": one["state"],
        "worker": one["worker"],
        "queuedAt": listing.iso(one["queued"]),
        "scheduledFor": listing.iso(one["scheduled"]),
        "startedAt": listing.iso(started),
        "endedAt": listing.iso(ended),
        "wait": None if started is None or ready is None else max(0.0, started - ready),
        "run": None if started is None or ended is None else max(0.0, ended - started),
        "error": one["error"],
        "exception": one["exception"],
        "stacktrace": one["stacktrace"],
    }


def family(connection: sa.Connection, row: Any) -> list[dict[str, Any]]:
    """This task, its ancestors and children, siblings and all of one root, oldest first."""
    columns = (
        *(tasks.c.id, tasks.c.name, tasks.c.state, tasks.c.parent),
        *(tasks.c.started, tasks.c.ended, tasks.c.seen),
    )
    found: dict[str, Any] = {row.id: row}
    parent = row.parent
    for _ in range(_MOST_ANCESTORS):
        if parent is None or parent in found:  # who is its own ancestor ends the line
            break
        one = connection.execute(sa.select(*columns).where(tasks.c.id == parent)).one_or_none()
        if one is None:
            break
        found[one.id], parent = one, one.parent
    root = row.root or row.id
    others = (tasks.c.root == root) | (tasks.c.id == root)
    if row.parent is not None:
        others |= tasks.c.parent == row.parent
    for near in (tasks.c.parent == row.id, others):  # of a large family the near ones
        query = sa.select(*columns).where(near).order_by(tasks.c.seen, tasks.c.id)
        for one in connection.execute(query.limit(_MOST_FAMILY)):
            if len(found) < _MOST_FAMILY:
                found.setdefault(one.id, one)
    return [
        {
            "id": one.id,
            "name": one.name,
            "state": one.state,
            "parentId": one.parent,
            "startedAt": listing.iso(one.started),
            "completedAt": listing.iso(one.ended),
        }
        for one in sorted(found.values(), key=lambda one: (one.seen, one.id))
    ]


def feed(connection: sa.Connection, after: int, limit: int, task: str | None) -> dict[str, Any]:
    """The answer to ``GET /api/events``: events of tasks in the order in which they came."""
    # Not that of the last row: pruned rows must not look like a collector that began anew.
    last = int(fact(connection, "fed"))
    if after < 0:
        return {"events": [], "last": last}
    query = sa.select(events.c.seq, events.c.received, events.c.body)
    query = query.where(events.c.seq > after, events.c.task.is_not(None))
    if task is not None:
        query = query.where(events.c.task == task)
    found = connection.execute(query.order_by(events.c.seq).limit(limit)).all()
    return {
        "events": [_as_it_came(one) for one in found],
        # What came between the two queries is among those found, and is not told twice.
        "last": found[-1].seq if len(found) == limit else max([last, *(one.seq for one in found)]),
    }
