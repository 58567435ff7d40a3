"""From received events to one timeline per task, and to what is missing in it.

Rules of a complete timeline
----------------------------
* Attempt 1 was sent and received; before its ETA it was received as ``scheduled``.
* Every attempt was received and became active; all but the last ended in ``retrying``.
* The last attempt ended once, in the expected state, and nothing came after that.
* Within an attempt, time never runs backwards from step to step.  Between attempts only
  two orders hold: an attempt becomes active before the next is sent or received, and it
  is seen to retry before the next becomes active.  Celery publishes the next attempt
  before it reports the retry of this one, so those two may come in either order.

Pure: no clock, no I/O, and nothing is assumed about the order in which processes deliver.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Step(IntEnum):
    """What can happen to one attempt of a task, in the order of its life."""

    SENT = 0
    RECEIVED = 1
    ACTIVE = 2
    RETRYING = 3
    ENDED = 4


_STEP_OF_STATE: Final = {
    "queued": Step.RECEIVED,
    "scheduled": Step.RECEIVED,
    "active": Step.ACTIVE,
    "retrying": Step.RETRYING,
    "completed": Step.ENDED,
    "failed": Step.ENDED,
    "cancelled": Step.ENDED,
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One event of a task.  Times are Unix times in seconds."""

    step: Step
    state: str
    attempt: int
    at: float
    #: Not to run before this: the ETA.
    due: float | None = None

    @property
    def key(self) -> tuple[int, Step]:
        """The moment's place in the life of the task."""
        return self.attempt, self.step

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> Moment | None:
        """The moment that a job event tells of; None where it is no step of a life."""
        job = event["job"]
        step = _STEP_OF_STATE.get(job["state"])
        if step is None:
            return None
        if job.get("extensions", {}).get("celeryEvent") == "task-sent":
            step = Step.SENT
        due = job.get("scheduledFor")
        return cls(
            step=step,
            state=job["state"],
            attempt=job.get("attempt", 1),
            at=_unix_time(event["timestamp"]),
            due=None if due is None else _unix_time(due),
        )

    def __str__(self) -> str:
        what = self.step.name.lower() if self.step is not Step.ENDED else self.state
        return what if self.attempt == 1 else f"{what} (attempt {self.attempt})"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must happen to a task that was sent."""

    task_id: str
    name: str
    pool: str
    ends: str = "completed"
    retries: int = 0
    scheduled: bool = False


@dataclass(slots=True)
class Timeline:
    """The moments of one task, in order of arrival."""

    name: str
    moments: list[Moment] = field(default_factory=list)

    def in_order(self) -> list[Moment]:
        """The moments in the order of a task's life."""
        return sorted(self.moments, key=lambda moment: moment.key)

    @property
    def state(self) -> str:
        """The state now: that of the furthest moment, or ``retrying`` between attempts."""
        if not self.moments:
            return "queued"
        last = max(self.moments, key=lambda moment: moment.key)
        return "retrying" if last.attempt > 1 and last.step < Step.ACTIVE else last.state

    def waits(self) -> Iterator[float]:
        """For each attempt, the seconds from when it could run to when it did."""
        for attempt in self._attempts():
            known = attempt.get(Step.SENT) or attempt.get(Step.RECEIVED)
            if known and (active := attempt.get(Step.ACTIVE)):
                dues = [moment.due for moment in attempt.values() if moment.due is not None]
                yield max(0.0, active.at - max([known.at, *dues]))

    def runs(self) -> Iterator[float]:
        """For each attempt, the seconds from when it was active to when it ended."""
        for attempt in self._attempts():
            end = attempt.get(Step.RETRYING) or attempt.get(Step.ENDED)
            if end and (active := attempt.get(Step.ACTIVE)):
                yield end.at - active.at

    def faults(self, expected: Expectation) -> list[str]:
        """What is missing or wrong, in words; empty where the timeline is complete."""
        if not self.moments:
            return ["nothing was heard of it"]
        return [
            *self._missing(expected),
            *self._surplus(),
            *self._wrong_end(expected),
            *self._backwards(),
        ]

    def _attempts(self) -> Iterator[dict[Step, Moment]]:
        attempts: dict[int, dict[Step, Moment]] = {}
        for moment in self.in_order():
            attempts.setdefault(moment.attempt, {})[moment.step] = moment
        yield from attempts.values()

    def _missing(self, expected: Expectation) -> Iterator[str]:
        seen = {moment.key: moment for moment in self.moments}
        last = expected.retries + 1
        for attempt in range(1, last + 1):
            end = Step.ENDED if attempt == last else Step.RETRYING
            steps = [Step.RECEIVED, Step.ACTIVE, end]
            for step in [Step.SENT, *steps] if attempt == 1 else steps:
                if (attempt, step) not in seen:
                    what = expected.ends if step is Step.ENDED else step.name.lower()
                    yield f"no {what}" + (f" in attempt {attempt}" if expected.retries else "")
        received = seen.get((1, Step.RECEIVED))
        if expected.scheduled and received and received.state != "scheduled":
            dues = [moment.due for moment in self.moments if moment.due is not None]
            if not dues or received.at < dues[0]:
                yield f"received as {received.state}, expected scheduled"
        if self.name != expected.name:
            yield f"named {self.name!r}, expected {expected.name!r}"

    def _surplus(self) -> Iterator[str]:
        for key, count in Counter(moment.key for moment in self.moments).items():
            if count > 1 and key[1] is not Step.ENDED:
                yield f"{count} times {key[1].name.lower()} in attempt {key[0]}"

    def _wrong_end(self, expected: Expectation) -> Iterator[str]:
        for moment in self.moments:
            if moment.step is Step.RETRYING and moment.attempt > expected.retries:
                yield f"unexpected {moment}"
        ends = [moment for moment in self.moments if moment.step is Step.ENDED]
        if len(ends) > 1:
            yield f"{len(ends)} terminal states: {', '.join(str(end) for end in ends)}"
        if not ends:
            return
        first = ends[0]
        if first.state != expected.ends:
            yield f"ended as {first.state}, expected {expected.ends}"
        if first.attempt != expected.retries + 1:
            yield f"ended in attempt {first.attempt}, expected {expected.retries + 1}"
        # One process delivers in order, but what was sent comes from another one.
        for moment in self.moments[self.moments.index(first) + 1 :]:
            if moment.step not in (Step.SENT, Step.ENDED) or moment.attempt > first.attempt:
                yield f"{moment} after {first}"

    def _backwards(self) -> Iterator[str]:
        earlier: dict[Step, Moment] = {}
        for attempt in self._attempts():
            steps = list(attempt.values())
            pairs = list(pairwise(steps))
            if Step.ACTIVE in earlier:
                pairs.append((earlier[Step.ACTIVE], steps[0]))
            if Step.RETRYING in earlier and Step.ACTIVE in attempt:
                pairs.append((earlier[Step.RETRYING], attempt[Step.ACTIVE]))
            for before, after in pairs:
                if after.at < before.at:
                    early = (before.at - after.at) * 1000
                    yield f"time runs backwards: {after} {early:.3f} ms before {before}"
            earlier = attempt


def _unix_time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
