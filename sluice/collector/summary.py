"""Everything at a glance: now, failures by kind, task names, queues, workers.

All of it is read from the rows of tasks, in queries that count; nothing is kept besides, so
nothing can drift from what is listed.  Percentiles are those of :mod:`sluice.collector.spread`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from sluice.collector.listing import SILENT_AFTER, iso
from sluice.collector.options import Options
from sluice.collector.schema import events, facts, queues, tasks, workers
from sluice.collector.spread import percentile

_STEP: Final = 5.0
_STEPS: Final = 60
_LAST: Final = 60.0
_SPARKS: Final = 24
_MOST_GROUPS: Final = 500
_ERROR_SHOWN: Final = 300
#: Names of a list of names, and queues of a list of queues.
_MOST_NAMES: Final = 1000

_Counts = defaultdict[int, int]


def now(connection: sa.Connection, at: float, options: Options) -> dict[str, Any]:
    """The answer to ``GET /api/now``."""
    known: dict[str, float] = dict(
        connection.execute(sa.select(facts.c.name, facts.c.n)).tuples().all()
    )
    by_state = sa.select(tasks.c.state, sa.func.count()).group_by(tasks.c.state)
    counts: dict[str, int] = dict(connection.execute(by_state).tuples().all())
    seen_workers = connection.scalar(sa.select(sa.func.count()).select_from(workers)) or 0
    first = at - at % _STEP - _STEP * (_STEPS - 1)
    slots = [_Slot() for _ in range(_STEPS)]
    recent = _Slot()
    place = sa.cast(sa.func.floor((tasks.c.ended - first) / _STEP), sa.Integer)
    fresh = tasks.c.ended >= at - _LAST
    query = (
        sa.select(
            place.label("place"),
            fresh.label("fresh"),
            tasks.c.state,
            tasks.c.wait_bin,
            tasks.c.run_bin,
            sa.func.count().label("n"),
            sa.func.sum(tasks.c.retries).label("retries"),
        )
        .where(tasks.c.ended >= first, tasks.c.ended < first + _STEP * _STEPS)
        .group_by("place", "fresh", tasks.c.state, tasks.c.wait_bin, tasks.c.run_bin)
    )
    for row in connection.execute(query):
        slots[min(max(row.place, 0), _STEPS - 1)].add(row)
        if row.fresh:
            recent.add(row)
    return {
        "at": iso(at),
        "counts": counts,
        "series": [
            {"at": iso(first + place * _STEP), **slot.told()} for place, slot in enumerate(slots)
        ],
        "last": {
            "throughput": round(recent.ended / _LAST, 3),
            "failureRate": recent.failed / recent.ended if recent.ended else None,
            **recent.percentiles(),
        },
        "kept": {
            "tasks": sum(counts.values()),
            "events": _last_seq(connection) - _first_seq(connection),
            "bytes": int(known.get("bytes", 0)),
            "maxTasks": options.max_tasks,
            "maxBytes": options.max_bytes,
            "maxAge": options.max_age,
        },
        "pruned": int(known.get("pruned", 0)),
        "dropped": int(known.get("dropped", 0)),
        "lost": counts.get("lost", 0),
        "heard": {
            "requests": int(known.get("requests", 0)),
            "events": int(known.get("events", 0)),
            "duplicates": int(known.get("duplicates", 0)),
            "invalid": int(known.get("invalid", 0)),
            "refusedKeys": int(known.get("refused_keys", 0)),
            "lastRefusedAt": iso(known.get("last_refused") or None),
            "lastEventAt": iso(known.get("last_event") or None),
            "since": iso(known.get("since")),
        },
        "diagnosis": _diagnosis(known, bool(counts), bool(seen_workers)),
    }


class _Slot:
    """Counts of some seconds."""

    def __init__(self) -> None:
        self.ended = self.failed = self.retried = 0
        self._waits: _Counts = defaultdict(int)
        self._runs: _Counts = defaultdict(int)

    def add(self, row: Any) -> None:
        self.ended += row.n
        self.failed += row.n if row.state == "failed" else 0
        self.retried += int(row.retries or 0)
        if row.wait_bin is not None:
            self._waits[row.wait_bin] += row.n
        if row.run_bin is not None:
            self._runs[row.run_bin] += row.n

    def percentiles(self) -> dict[str, float | None]:
        return {
            "waitP50": percentile(self._waits, 0.5),
            "waitP95": percentile(self._waits, 0.95),
            "runP50": percentile(self._runs, 0.5),
            "runP95": percentile(self._runs, 0.95),
        }

    def told(self) -> dict[str, Any]:
        counts = {"ended": self.ended, "failed": self.failed, "retried": self.retried}
        return {**counts, **self.percentiles()}


def failures(connection: sa.Connection, at: float) -> dict[str, Any]:
    """The answer to ``GET /api/failures``: failed tasks by name and exception."""
    first = connection.scalar(sa.select(sa.func.min(tasks.c.ended)).where(_FAILED))
    span = max(60.0, at - first) if first is not None else 60.0
    step = span / _SPARKS
    start = at - span
    place = sa.cast(sa.func.floor((tasks.c.ended - start) / step), sa.Integer)
    query = (
        sa.select(
            tasks.c.name,
            tasks.c.exception,
            place.label("place"),
            sa.func.count().label("n"),
            sa.func.min(tasks.c.ended).label("first"),
            sa.func.max(tasks.c.ended).label("last"),
        )
        .where(_FAILED)
        .group_by(tasks.c.name, tasks.c.exception, "place")
    )
    groups: dict[tuple[str, str | None], dict[str, Any]] = {}
    for row in connection.execute(query):
        group = groups.setdefault(
            (row.name, row.exception),
            {"count": 0, "first": row.first, "last": row.last, "spark": [0] * _SPARKS},
        )
        group["count"] += row.n
        group["first"] = min(group["first"], row.first)
        group["last"] = max(group["last"], row.last)
        group["spark"][min(max(row.place, 0), _SPARKS - 1)] += row.n
    named = sorted(groups.items(), key=lambda one: one[1]["last"], reverse=True)[:_MOST_GROUPS]
    latest = _latest(connection, {group["last"] for _, group in named})
    return {
        "failures": [
            {
                "name": name,
                "exception": exception,
                "count": group["count"],
                "firstAt": iso(group["first"]),
                "lastAt": iso(group["last"]),
                "jobId": latest.get((name, exception, group["last"]), (None, None))[0],
                "error": latest.get((name, exception, group["last"]), (None, None))[1],
                "spark": group["spark"],
            }
            for (name, exception), group in named
        ],
        "sparkSeconds": step,
    }


_FAILED: Final = (tasks.c.state == "failed") & tasks.c.ended.is_not(None)


def _latest(
    connection: sa.Connection, times: set[float]
) -> dict[tuple[str, str | None, float], tuple[str, str | None]]:
    """(name, exception, time of its end) -> id and error of a task that failed then."""
    columns = (tasks.c.id, tasks.c.name, tasks.c.exception, tasks.c.ended, tasks.c.error)
    rows = connection.execute(sa.select(*columns).where(_FAILED, tasks.c.ended.in_(times)))
    return {(row.name, row.exception, row.ended): (row.id, row.error) for row in rows}


def names(connection: sa.Connection) -> dict[str, Any]:
    """The answer to ``GET /api/names``."""
    counted = sa.select(tasks.c.name, tasks.c.state, sa.func.count().label("n"))
    found: dict[str, dict[str, Any]] = {}
    for row in connection.execute(counted.group_by(tasks.c.name, tasks.c.state)):
        one = found.setdefault(row.name, {"count": 0, "ended": 0, "failed": 0})
        one["count"] += row.n
        one["ended"] += row.n if row.state in ("completed", "failed", "cancelled") else 0
        one["failed"] += row.n if row.state == "failed" else 0
    most = sorted(found, key=lambda name: found[name]["count"], reverse=True)[:_MOST_NAMES]
    waits, runs = _bins(connection, tasks.c.wait_bin), _bins(connection, tasks.c.run_bin)
    slowest = _slowest(connection)
    return {
        "names": [
            {
                "name": name,
                **found[name],
                "failureRate": (
                    found[name]["failed"] / found[name]["ended"] if found[name]["ended"] else None
                ),
                "waitP50": percentile(waits[name], 0.5),
                "waitP95": percentile(waits[name], 0.95),
                "runP50": percentile(runs[name], 0.5),
                "runP95": percentile(runs[name], 0.95),
                "slowest": slowest.get(name, (None, None))[0],
                "slowestId": slowest.get(name, (None, None))[1],
            }
            for name in most
        ]
    }


def usual_runs(connection: sa.Connection) -> dict[str, float]:
    """Name -> the run time that 95 % of its tasks stay below, in seconds."""
    counts = _bins(connection, tasks.c.run_bin)
    return {name: percentile(counts[name], 0.95) or 0.0 for name in counts}


def _bins(connection: sa.Connection, column: sa.Column[int]) -> defaultdict[str, _Counts]:
    found: defaultdict[str, _Counts] = defaultdict(lambda: defaultdict(int))
    query = sa.select(tasks.c.name, column.label("place"), sa.func.count().label("n"))
    for row in connection.execute(query.where(column.is_not(None)).group_by(tasks.c.name, column)):
        found[row.name][row.place] += row.n
    return found


def _slowest(connection: sa.Connection) -> dict[str, tuple[float, str]]:
    top = sa.select(tasks.c.name, sa.func.max(tasks.c.run).label("run")).group_by(tasks.c.name)
    best = top.where(tasks.c.run.is_not(None)).subquery()
    query = (
        sa.select(tasks.c.name, tasks.c.run, sa.func.min(tasks.c.id).label("id"))
        .join(best, (best.c.name == tasks.c.name) & (best.c.run == tasks.c.run))
        .group_by(tasks.c.name, tasks.c.run)
    )
    return {row.name: (row.run, row.id) for row in connection.execute(query)}


def all_queues(connection: sa.Connection, at: float) -> dict[str, Any]:
    """The answer to ``GET /api/queues``."""
    found: dict[str, dict[str, Any]] = {}

    def queue(name: str) -> dict[str, Any]:
        start = {"waiting": 0, "scheduled": 0, "active": 0, "workers": 0}
        return found.setdefault(name, {**start, "depth": None, "consumers": None})

    wanted = {"queued": "waiting", "scheduled": "scheduled", "active": "active"}
    counted = sa.select(tasks.c.queue, tasks.c.state, sa.func.count().label("n"))
    counted = counted.where(tasks.c.state.in_(wanted), tasks.c.queue.is_not(None))
    for row in connection.execute(counted.group_by(tasks.c.queue, tasks.c.state)):
        queue(row.queue)[wanted[row.state]] += row.n
    for row in connection.execute(sa.select(queues)):
        queue(row.name).update(depth=row.depth, consumers=row.consumers)
    for worker in all_workers(connection, at)["workers"]:
        if worker["state"] != "offline":
            for name in worker["queues"]:
                queue(name)["workers"] += 1
    return {"queues": [{"name": name, **found[name]} for name in sorted(found)[:_MOST_NAMES]]}


def all_workers(connection: sa.Connection, at: float) -> dict[str, Any]:
    """The answer to ``GET /api/workers``: first those that are there."""
    shown = [_worker(row, at) for row in connection.execute(sa.select(workers))]
    shown.sort(key=lambda one: (one["state"] == "offline", one["id"]))
    return {"workers": shown}


def _worker(row: Any, at: float) -> dict[str, Any]:
    body: Mapping[str, Any] = json.loads(row.body)
    age = max(0.0, at - row.heard)
    state, reason = row.state, body.get("reason")
    if state != "offline" and age > SILENT_AFTER:
        state, reason = "offline", "silent"
    gone = state == "offline"
    return {
        "id": row.id,
        "hostname": body.get("hostname"),
        "pid": body.get("pid"),
        "pool": body.get("pool"),
        "state": state,
        "heartbeatAge": round(age, 3),
        "concurrency": body.get("concurrency"),
        "active": 0 if gone else body.get("active"),
        "processed": body.get("processed"),
        "queues": body.get("queues") or [],
        "software": body.get("software"),
        "version": body.get("version"),
        "loadAverage": body.get("loadAverage"),
        "onlineAt": iso(row.online_at),
        "offlineAt": iso(row.offline_at if row.state == "offline" else row.at) if gone else None,
        "reason": reason if gone else None,
        "suspects": [
            {
                "id": one.get("externalId"),
                "name": one.get("name"),
                "attempt": one.get("attempt"),
                "runtime": one.get("runtime"),
            }
            for one in body.get("suspects") or []
        ],
    }


def _diagnosis(known: Mapping[str, float], has_tasks: bool, has_workers: bool) -> str:
    """Why a page may be empty."""
    if has_tasks:
        return "ok"
    if known.get("refused_keys", 0) and known.get("last_refused", 0) >= known.get("last_event", 0):
        return "key_rejected"
    return "no_tasks" if has_workers else "nothing"


def _last_seq(connection: sa.Connection) -> int:
    return connection.scalar(sa.select(sa.func.max(events.c.seq))) or 0


def _first_seq(connection: sa.Connection) -> int:
    first = connection.scalar(sa.select(sa.func.min(events.c.seq)))
    return 0 if first is None else first - 1
