"""What all events of one task say together.

Guarantees
----------
* The order of arrival does not matter, nor does a second copy: whatever the order in which a
  set of events is taken in, and however often, the story is the same.  Every field is a
  maximum, a minimum or a union over the events, by an order that the events carry themselves.
* A terminal state never regresses: ``completed``, ``failed`` and ``cancelled`` win over
  everything that does not end a task; of two ends the later attempt wins, then the later time.
* A task whose worker is known to be dead is *lost* and not active for ever; whatever is heard
  of it after that death takes this back.  What `lose` tells may come before or after.

It relies on what the SDK sends: events of one delivery come from one process with one clock,
so that their times are in order; the time of ``task-sent`` is another machine's, so it never
counts against an event of a worker.  Pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import msgspec

from sluice.events import Event, Job

#: Of a text in a table; the whole is in the event.
ERROR_SHOWN: Final = 300
TERMINAL: Final = frozenset(("completed", "failed", "cancelled"))
#: The states that can be shown: those of the wire, and what only a receiver can know.
STATES: Final = (
    *("unknown", "queued", "scheduled", "active", "retrying"),
    *("completed", "failed", "cancelled", "lost"),
)
_RANK: Final = {
    "unknown": 0, "queued": 1, "scheduled": 2, "active": 3, "retrying": 4,
    "completed": 5, "failed": 6, "cancelled": 7,
}  # fmt: skip
#: In these it waits for its turn.
_WAITING: Final = frozenset(("unknown", "queued", "scheduled"))
#: Starts of one attempt that are told apart, and deaths of workers that had it.
_MOST_STARTS: Final = 4
_MOST_DEATHS: Final = 8
#: Seconds by which the clocks of two workers' machines may differ.
_SKEW: Final = 5.0
#: What a database keeps in an integer; a task with more attempts is no task.
MOST: Final = 2**31 - 1
_FAR: Final = 1e18
#: The last second of the calendar: a fraction of it would be rounded up to the year 10000.
_LAST_SECOND: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()

#: (ends it, attempt, is a worker's, time, rank): by this, events of a task are ordered.
Key = tuple[bool, int, bool, float, int]


class Said(msgspec.Struct, array_like=True):
    """A value, and the place of the event that told it."""

    key: Key
    value: str | float | int | None

    def order(self) -> tuple[Key, str]:
        """Of two events in one place, any rule will do that does not ask who came first."""
        return self.key, str(self.value)


class Story(msgspec.Struct, omit_defaults=True):
    """What is known of one task.  Times are Unix times in seconds."""

    id: str
    said: dict[str, Said] = {}
    #: The latest attempt that was heard of, when first, and where and when it was started.
    attempt: int = 0
    known: float = _FAR
    starts: list[tuple[float, str]] = []
    #: The last attempt that a worker gave back: to be retried, or to another worker.
    given_back: int = 0
    created: float = _FAR
    #: The earliest and the latest time of all events, and the latest of those of workers.
    first: float = _FAR
    last: float = -_FAR
    worked: float = -_FAR
    #: Which worker is known to have ended, and when.
    deaths: list[tuple[float, str]] = []
    #: Its worker has not been heard of for long.  This alone depends on the receiver's clock.
    silent: bool = False

    def take(self, event: Event) -> None:
        """One event more of this task."""
        job = event.job
        if job is None:
            raise ValueError("no event of a task")
        at = seconds(event.timestamp)
        if at is None:
            raise ValueError("a time outside the calendar")
        attempt = min(job.attempt or 1, MOST)
        extensions = job.extensions
        sent = extensions.get("celeryEvent") == "task-sent"
        key: Key = (job.state in TERMINAL, attempt, not sent, at, _RANK[job.state])
        self._say("state", key, job.state)
        self._say("name", (job.name != "unknown", *key[1:]), clean(job.name))
        self._say("queue", key, clean(job.queue))
        self._say("worker", key, clean(job.worker_id))
        if job.max_retries is not None:
            self._say("max_retries", key, min(job.max_retries, MOST))
        self._say("parent", key, clean(job.parent_id))
        self._say("root", key, clean(job.root_id))
        self._say("scheduled", key, seconds(job.scheduled_for))
        self._say("started", key, seconds(job.started_at))
        self._say("ended", key, seconds(job.completed_at))
        if job.error is not None:
            self._say("error", key, clean(job.error[:ERROR_SHOWN]))
        self._say("exception", key, _text(extensions.get("exceptionClass")))
        if key[0]:
            self._say("runtime", key, _duration(extensions.get("runtime")))
        self._place(job, attempt, at)
        if not sent:
            self.worked = max(self.worked, at)
            self.silent = False

    def lose(self, worker: str, at: float) -> None:
        """A worker, which may have had it, is known to have ended at this time."""
        self.deaths = sorted({*self.deaths, (at, worker)})[-_MOST_DEATHS:]

    def _say(self, field: str, key: Key, value: str | float | None) -> None:
        if value is None:
            return
        new, old = Said(key, value), self.said.get(field)
        if old is None or new.order() > old.order():
            self.said[field] = new

    def _place(self, job: Job, attempt: int, at: float) -> None:
        if attempt > self.attempt:
            self.attempt, self.known, self.starts = attempt, _FAR, []
        if attempt == self.attempt:
            if job.state in _WAITING:
                self.known = min(self.known, at)
            elif job.state == "active":
                started = seconds(job.started_at)
                start = round(at if started is None else started, 3), clean(job.worker_id) or ""
                self.starts = sorted({*self.starts, start})[:_MOST_STARTS]
        if job.state == "retrying":
            self.given_back = max(self.given_back, attempt)
        created = seconds(job.created_at)
        if created is not None:
            self.created = min(self.created, created)
        self.first = min(self.first, at, self.created)
        self.last = max(self.last, at)

    def _value(self, field: str) -> str | float | None:
        said = self.said.get(field)
        return None if said is None else said.value

    def text(self, field: str) -> str | None:
        """What was said last of a field that is a text."""
        value = self._value(field)
        return value if isinstance(value, str) else None

    def number(self, field: str) -> float | None:
        """What was said last of a field that is a number."""
        value = self._value(field)
        return None if isinstance(value, str) else value

    @property
    def is_ended(self) -> bool:
        """Whether it completed, failed or was cancelled."""
        return "state" in self.said and self.said["state"].key[0]

    @property
    def is_lost(self) -> bool:
        """Whether it can no longer finish: it was active where a worker died, and is silent."""
        if self._told != "active":
            return False
        worker = self.text("worker")
        return self.silent or any(at >= self.worked for at, who in self.deaths if who == worker)

    @property
    def _told(self) -> str:
        return self.text("state") or "unknown"

    @property
    def state(self) -> str:
        """One of `STATES`."""
        return "lost" if self.is_lost else self._told

    @property
    def started(self) -> float | None:
        """When the attempt that runs, or ran last, was started."""
        return None if self._told in _WAITING else self.number("started")

    @property
    def ended(self) -> float | None:
        """When it ended, by the event that tells its end."""
        if not self.is_ended:
            return None
        said, state = self.said.get("ended"), self.said["state"]
        if said is not None and said.key == state.key and isinstance(said.value, (int, float)):
            return float(said.value)
        return state.key[3]

    @property
    def wait(self) -> float | None:
        """Seconds from when the latest attempt could run to when it did."""
        said = self.said.get("started")
        if said is None or self.started is None or said.key[1] != self.attempt:
            return None
        due = self.number("scheduled") if self._due_in_this_attempt() else None
        if due is None and self.known == _FAR:
            return None  # nobody told of its waiting
        known = self.known if self.known != _FAR else -_FAR
        return max(0.0, self.started - max(known, due if due is not None else -_FAR))

    def _due_in_this_attempt(self) -> bool:
        said = self.said.get("scheduled")
        return said is not None and said.key[1] == self.attempt

    @property
    def run(self) -> float | None:
        """Seconds that the attempt which ended took."""
        ended, state = self.ended, self.said.get("state")
        runtime = self.said.get("runtime")
        if ended is None or state is None:
            return None
        if runtime is not None and runtime.key == state.key and not isinstance(runtime.value, str):
            return runtime.value
        started = self.said.get("started")
        if started is None or started.key[1] != state.key[1] or self.started is None:
            return None
        return max(0.0, ended - self.started)

    @property
    def begun(self) -> float:
        """When a worker was first heard to run the latest attempt, or last heard at all."""
        return min([self.worked, *(at for at, _ in self.starts)])

    @property
    def holders(self) -> set[str]:
        """The workers whose end says something about this task."""
        found = {who for _, who in self.starts} if len(self.starts) > 1 else set()
        worker = self.text("worker")
        return found | {worker} if worker is not None and self._told == "active" else found

    @property
    def is_duplicate(self) -> bool:
        """Whether one attempt was started again while nobody had given it back or died."""
        return self.given_back < self.attempt and any(
            not self._died(who, at, again + _SKEW)
            for (at, who), (again, _) in pairwise(self.starts)
        )

    def _died(self, worker: str, since: float, until: float) -> bool:
        return any(who == worker and since <= at <= until for at, who in self.deaths)


def seconds(moment: datetime | None) -> float | None:
    """Unix time of an aware time; one without a zone counts as UTC's."""
    if moment is None:
        return None
    try:
        aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        return min(aware.timestamp(), _LAST_SECOND)
    except (OverflowError, ValueError):  # the edges of the calendar
        return None


def clean(text: str | None) -> str | None:
    """A text without NUL, which PostgreSQL cannot keep."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if text else None


def _text(value: object) -> str | None:
    return clean(value[:ERROR_SHOWN]) if isinstance(value, str) else None


def _duration(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value < _FAR and math.isfinite(value) else None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Story).decode


def packed(story: Story) -> bytes:
    """The story for the database."""
    return _encode(story)


def unpacked(packed_story: bytes) -> Story:
    """What `packed` made."""
    return _decode(packed_story)
