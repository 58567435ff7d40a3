"""Everything at a glance: now, failures by kind, task names, queues, workers.

Counts and percentiles are read from :mod:`sluice.collector.tally`, within the width of a place
of :mod:`sluice.collector.spread`; the rest from the rows themselves.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa

from sluice._version import __version__
from sluice.collector.listing import SILENT_AFTER, iso
from sluice.collector.options import Options
from sluice.collector.schema import facts, queues, tallies, tasks, workers
from sluice.collector.spread import percentile
from sluice.collector.story import STATES, TERMINAL
from sluice.collector.tally import SLOT, slot_of

#: Slots of the charts, and of what counts as now.
_SLOTS: Final = 60
_RECENT: Final = 12
_SPARKS: Final = 24
_MOST_GROUPS: Final = 500
#: Names of a list of names, and queues of a list of queues.
_MOST_NAMES: Final = 1000


def now(connection: sa.Connection, at: float, options: Options) -> dict[str, Any]:
    """The answer to ``GET /api/now``."""
    rows = connection.execute(sa.select(facts.c.name, facts.c.n))
    known: dict[str, float] = {row.name: row.n for row in rows}
    counts = _states(connection)
    seen_workers = connection.scalar(sa.select(sa.func.count()).select_from(workers)) or 0
    first = slot_of(at) - _SLOTS + 1
    slots = [_Slot() for _ in range(_SLOTS)]
    recent = _Slot()
    query = sa.select(tallies).where(tallies.c.name == "", tallies.c.slot >= first)
    for row in connection.execute(query):
        if row.slot < first + _SLOTS:  # what ended in the future is shown then
            slots[row.slot - first].add(row.kind, row.place, row.n)
            if row.slot > first + _SLOTS - 1 - _RECENT:
                recent.add(row.kind, row.place, row.n)
    return {
        "at": iso(at),
        "counts": counts,
        "series": [
            {"at": iso((first + place) * SLOT), **slot.told()} for place, slot in enumerate(slots)
        ],
        "last": {
            "throughput": round(recent.counts["ended"] / (_RECENT * SLOT), 3),
            "failureRate": _share(recent.counts["failed"], recent.counts["ended"]),
            **recent.percentiles(),
        },
        "kept": {
            "tasks": sum(counts.values()),
            "events": int(known.get("kept_events", 0)),
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
        "version": __version__,
        "keyRequired": options.api_key is not None or options.is_open,
        "diagnosis": _diagnosis(known, bool(counts), bool(seen_workers)),
    }


class _Slot:
    """Counts of some seconds, or of a name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._waits: Counter[int] = Counter()
        self._runs: Counter[int] = Counter()

    def add(self, kind: str, place: int, n: int) -> None:
        if kind == "wait":
            self._waits[place] += n
        elif kind == "run":
            self._runs[place] += n
        else:
            self.counts[STATES[place] if kind == "state" else kind] += n

    def percentiles(self) -> dict[str, float | None]:
        return {
            "waitP50": percentile(self._waits, 0.5),
            "waitP95": percentile(self._waits, 0.95),
            "runP50": percentile(self._runs, 0.5),
            "runP95": percentile(self._runs, 0.95),
        }

    def told(self) -> dict[str, Any]:
        counts = {name: self.counts[name] for name in ("ended", "failed", "retried")}
        return {**counts, **self.percentiles()}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _states(connection: sa.Connection) -> dict[str, int]:
    """State -> how many of the tasks that are kept."""
    n = sa.func.sum(tallies.c.n).label("n")
    query = sa.select(tallies.c.place, n).where(tallies.c.kind == "state")
    found = connection.execute(query.group_by(tallies.c.place))
    return {STATES[row.place]: int(row.n) for row in found if row.n > 0}


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
    found = _by_name(connection)
    most = sorted(found, key=lambda name: -sum(found[name].counts.values()))[:_MOST_NAMES]
    return {"names": [_name(connection, name, found[name]) for name in most]}


def _name(connection: sa.Connection, name: str, slot: _Slot) -> dict[str, Any]:
    slowest = connection.execute(
        sa.select(tasks.c.id, tasks.c.run)
        .where(tasks.c.name == name, tasks.c.run.is_not(None))
        .order_by(tasks.c.run.desc())
        .limit(1)
    ).one_or_none()
    ended = sum(slot.counts[state] for state in TERMINAL)
    return {
        "name": name,
        "count": sum(slot.counts.values()),
        "ended": ended,
        "failed": slot.counts["failed"],
        "failureRate": _share(slot.counts["failed"], ended),
        **slot.percentiles(),
        "slowest": slowest.run if slowest is not None else None,
        "slowestId": slowest.id if slowest is not None else None,
    }


def usual_runs(connection: sa.Connection) -> dict[str, float]:
    """Name -> the run time that 95 % of its tasks stay below, in seconds."""
    found = _by_name(connection)
    runs = {name: found[name].percentiles()["runP95"] for name in found}
    return {name: run for name, run in runs.items() if run is not None}


def _by_name(connection: sa.Connection) -> dict[str, _Slot]:
    found: defaultdict[str, _Slot] = defaultdict(_Slot)
    for row in connection.execute(sa.select(tallies).where(tallies.c.name != "", tallies.c.n > 0)):
        found[row.name].add(row.kind, row.place, row.n)
    return found


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
