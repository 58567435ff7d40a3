"""A worker's sign of life: who it is and what it runs, kept beside its ring while it lives.

It is written every two seconds and removed when the worker ends.  So a sign beside a ring
that nobody owns says that the worker was killed, and what it was doing: the tasks that the
sign names, changed by the events that the ring has had since.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from sluice.events import FINAL_STATES, Scalar, Worker, encode_worker

#: Tasks that a sign, and the report of a death, name at most.
MOST_TASKS = 200


class ActiveTask(msgspec.Struct, gc=False):
    """A task that a worker runs."""

    id: str
    name: str
    attempt: int
    #: Unix time in seconds.
    started: float


class LifeSign(msgspec.Struct):
    """A worker at one moment."""

    worker: str
    hostname: str
    pid: int
    #: Unix time in seconds.
    at: float
    #: Where its ring was (see :attr:`sluice.ring.Ring.mark`), before `active` was looked at.
    mark: tuple[int, int]
    active: list[ActiveTask]
    #: The tag of its events.
    environment: str | None = None


class _Job(msgspec.Struct, rename="camel"):
    external_id: str
    name: str
    state: str
    attempt: int = 1
    started_at: datetime | None = None


class _Event(msgspec.Struct):
    timestamp: datetime
    job: _Job | None = None


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_sign = msgspec.json.Decoder(LifeSign).decode
encode_sign = msgspec.json.Encoder().encode
#: What decoding raises: also for half a character, and for lists in lists in lists.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_sign(data: bytes) -> LifeSign | None:
    """The sign that was written, or None if it is not one."""
    try:
        return _decode_sign(data)
    except _UNREADABLE:
        return None


def report_of_death(sign: LifeSign, since: Iterable[bytes], connection_id: str) -> bytes:
    """The event that says that this worker was killed, and what it was doing.

    `since` are its events from the sign's mark on.  The time is that of the last thing that
    is known of it, and a task's `runtime` is how long it had run by then, in seconds.
    """
    active = {task.id: task for task in sign.active}
    last_seen = sign.at
    for payload in since:
        try:
            event = _decode_event(payload)
        except _UNREADABLE:
            continue
        last_seen = max(last_seen, event.timestamp.timestamp())
        job = event.job
        if job is None:
            continue
        if job.state in FINAL_STATES:
            # The next attempt can begin before the end of the last one is told.
            known = active.get(job.external_id)
            if known is not None and known.attempt <= job.attempt:
                del active[job.external_id]
        elif job.state == "active":
            started = (job.started_at or event.timestamp).timestamp()
            active[job.external_id] = ActiveTask(job.external_id, job.name, job.attempt, started)
    tasks: list[dict[str, Scalar]] = [
        {
            "externalId": task.id,
            "name": task.name,
            "attempt": task.attempt,
            "runtime": round(max(0.0, last_seen - task.started), 3),
        }
        for task in sorted(active.values(), key=lambda task: task.started)[:MOST_TASKS]
    ]
    worker = Worker(
        external_id=sign.worker,
        hostname=sign.hostname,
        pid=sign.pid,
        state="offline",
        active_jobs=len(active),
        extensions={"celeryEvent": "worker-killed", "reason": "killed", "activeTasks": tasks},
    )
    if sign.environment is not None:
        worker.extensions["environment"] = sign.environment
    return encode_worker(connection_id, last_seen, worker)
