"""What is known of one worker: its last word, when that was heard, when it came and went.

Of events that come in any order the latest by the worker's own clock counts.  A report of its
death says less than its heartbeats did, so what it leaves out stays as it was.  Pure.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sluice.collector.rows import bounded
from sluice.collector.story import clean, seconds
from sluice.events import Event

_NEVER: Final = -1e18
_MOST_SUSPECTS: Final = 100
_MOST_QUEUES: Final = 100
_SHOWN: Final = ("pool", "software", "version", "sdkVersion", "processed", "loadAverage")


class Attendance(msgspec.Struct):
    """One worker.  Times are Unix times in seconds."""

    id: str
    state: str = "offline"
    at: float = _NEVER
    #: When that was received, by the collector's clock.
    heard: float = _NEVER
    online_at: float | None = None
    offline_at: float | None = None
    #: What is shown of it, as JSON has it.
    body: dict[str, Any] = {}

    def take(self, event: Event, now: float) -> None:
        """One event more of this worker, received `now`."""
        worker, at = event.worker, seconds(event.timestamp)
        if worker is None or at is None:
            raise ValueError("no event of a worker")
        if worker.state == "online":
            self.online_at = max(at, self.online_at or at)
        elif worker.state == "offline":
            self.offline_at = max(at, self.offline_at or at)
        if at < self.at:
            return
        self.state, self.at, self.heard = worker.state, at, now
        metadata = worker.metadata or {}
        suspects = worker.extensions.get("activeTasks")
        told: dict[str, Any] = {
            "hostname": clean(worker.hostname[:512]),
            "pid": bounded(worker.pid),
            "concurrency": bounded(worker.concurrency),
            "active": bounded(worker.active_jobs),
            "queues": worker.queues and [clean(one) or "" for one in worker.queues[:_MOST_QUEUES]],
            **{name: metadata.get(name) for name in _SHOWN},
        }
        self.body |= {name: value for name, value in told.items() if value is not None}
        self.body["reason"] = worker.extensions.get("reason")
        self.body["suspects"] = suspects[:_MOST_SUSPECTS] if isinstance(suspects, list) else []

    def is_dead_since(self, at: float) -> bool:
        """Whether it is known to have ended at or after this time."""
        return self.offline_at is not None and self.offline_at >= at

    def row(self) -> dict[str, Any]:
        """The row of the table."""
        fields = msgspec.structs.asdict(self)
        return {**fields, "body": msgspec.json.encode(self.body).decode()}


def attendance_of(row: Any) -> Attendance:
    """What `Attendance.row` made."""
    body = msgspec.json.decode(row.body)
    return Attendance(row.id, row.state, row.at, row.heard, row.online_at, row.offline_at, body)
