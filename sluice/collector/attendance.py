"""What is known of one worker: its last word, when it was heard, when it came and went.

Guarantees
----------
* Of events that come in any order the latest by the worker's own clock counts, for each thing
  that they tell: a report of its death says less than its heartbeats did, so what it leaves out
  stays as it was, whichever comes first.
* What is kept is bounded, whatever an event holds.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from sluice.collector.rows import bounded
from sluice.collector.story import clean, seconds
from sluice.events import Event

_NEVER: Final = -1e18
_MOST_SUSPECTS: Final = 100
_MOST_QUEUES: Final = 100
_MOST_NUMBERS: Final = 3
_MOST_TEXT: Final = 1024
_SHOWN: Final = ("pool", "software", "version", "sdkVersion", "processed", "loadAverage")
_SHOWN_OF_A_TASK: Final = ("externalId", "name", "attempt", "runtime")
#: Of two words at one time: the end is the last one.
_RANK: Final = {"online": 0, "idle": 1, "busy": 2, "offline": 3}

_encode = msgspec.json.Encoder().encode

#: When something was told, and in which state.
_Place = tuple[float, int]


class Attendance(msgspec.Struct):
    """One worker.  Times are Unix times in seconds."""

    id: str
    state: str = "offline"
    at: float = _NEVER
    #: When anything of it was received, by the collector's clock.
    heard: float = _NEVER
    online_at: float | None = None
    offline_at: float | None = None
    #: What is shown of it, as JSON has it.
    body: dict[str, Any] = {}
    #: When each entry of `body` was told.
    told: dict[str, _Place] = {}

    def take(self, event: Event, now: float) -> None:
        """One event more of this worker, received `now`."""
        worker, at = event.worker, seconds(event.timestamp)
        if worker is None or at is None:
            raise ValueError("no event of a worker")
        self.heard = max(self.heard, now)
        if worker.state == "online":
            self.online_at = at if self.online_at is None else max(at, self.online_at)
        elif worker.state == "offline":
            self.offline_at = at if self.offline_at is None else max(at, self.offline_at)
        place = at, _RANK[worker.state]
        if place >= (self.at, _RANK[self.state]) or self.at == _NEVER:
            self.state, self.at = worker.state, at
        metadata = worker.metadata or {}
        suspects = worker.extensions.get("activeTasks")
        if not isinstance(suspects, list):
            suspects = []
        queues = worker.queues and [clean(one) or "" for one in worker.queues[:_MOST_QUEUES]]
        said = {
            "hostname": clean(worker.hostname[:512]),
            "pid": bounded(worker.pid),
            "concurrency": bounded(worker.concurrency),
            "active": bounded(worker.active_jobs),
            "queues": queues,
            **{name: _small(metadata.get(name)) for name in _SHOWN},
        }
        for name, value in said.items():
            if value is not None:
                self._say(name, place, value)
        # These are of one moment: what is not told now is over.
        reason = worker.extensions.get("reason")
        self._say("reason", place, _small(reason) if isinstance(reason, str) else None)
        self._say("suspects", place, [_suspect(one) for one in suspects[:_MOST_SUSPECTS]])

    def _say(self, name: str, place: _Place, value: Any) -> None:
        old = self.told.get(name)
        if old is None or (place, _encode(value)) >= (old, _encode(self.body[name])):
            self.body[name], self.told[name] = value, place

    def row(self) -> dict[str, Any]:
        """The row of the table."""
        fields = msgspec.structs.asdict(self)
        told = fields.pop("told")
        return {**fields, "body": _encode({**self.body, "told": told}).decode()}


def attendance_of(row: Any) -> Attendance:
    """What `Attendance.row` made."""
    body = msgspec.json.decode(row.body)
    told = {name: (place[0], place[1]) for name, place in body.pop("told").items()}
    return Attendance(
        row.id, row.state, row.at, row.heard, row.online_at, row.offline_at, body, told
    )


def _small(value: Any) -> Any:
    """A value that has room in a row."""
    if isinstance(value, str):
        return value[:_MOST_TEXT]
    if isinstance(value, list):
        return value[:_MOST_NUMBERS]
    return bounded(value) if type(value) is int else value


def _suspect(task: Any) -> dict[str, Any]:
    return {
        name: _small(task[name])
        for name in _SHOWN_OF_A_TASK
        if isinstance(task, Mapping) and name in task
    }
