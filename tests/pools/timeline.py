"""What arrived of one task, and what is wrong with it.  Pure: events in, sentences out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from tests.pools.plan import ENDS, STATES

Event = dict[str, Any]
#: Clock readings of two processes for the same thing, and a pause of the scheduler between them.
TOLERANCE = 0.5


def unix(text: str) -> float:
    """A time of the wire, which must be UTC with a Z, as Unix time."""
    assert text.endswith("Z"), text
    return datetime.fromisoformat(text).timestamp()


def subject(event: Event) -> dict[str, Any]:
    """The job or the worker that an event is about."""
    found: dict[str, Any] = event.get("job") or event["worker"]
    return found


def event_id(event: Event) -> str:
    text: str = subject(event)["extensions"]["eventId"]
    return text


def drops_reported(events: Iterable[Event]) -> int:
    """The drops of the SDK that these events tell of."""
    return sum(subject(event)["extensions"].get("droppedEvents", 0) for event in events)


def what(event: Event) -> str:
    """The short name of an event: Celery's without "task-", with `requeued` for that."""
    extensions = event["job"]["extensions"]
    name = extensions["celeryEvent"].removeprefix("task-")
    return "requeued" if name == "rejected" and extensions.get("requeue") else name


def at(event: Event) -> float:
    return unix(event["timestamp"])


@dataclass
class Timeline:
    """The events of one task id, in order of arrival."""

    task_id: str
    sent: list[Event] = field(default_factory=list)
    told: list[Event] = field(default_factory=list)

    @property
    def events(self) -> list[Event]:
        return [*self.sent, *self.told]

    @property
    def end(self) -> Event:
        """The last thing that was told of the last attempt.

        Not the last of all: Celery publishes a retry before it reports it, and the next attempt
        can be over by then.
        """
        return self.attempt(max(event["job"]["attempt"] for event in self.told))[-1]

    def attempt(self, number: int) -> list[Event]:
        """What a worker told of one attempt."""
        return [event for event in self.told if event["job"]["attempt"] == number]

    def sent_of(self, number: int) -> list[Event]:
        return [event for event in self.sent if event["job"]["attempt"] == number]

    def faults(self, attempts: tuple[str, ...], *, sent: bool = True) -> list[str]:
        """Where this is not the expected life, once, in order, with its states and times.

        `sent` False: who sent the first attempt had no Sluice. A retry is sent by the worker.
        """
        return [
            *self._wrong_steps(attempts, sent=sent),
            *self._wrong_states(),
            *self._wrong_times(),
        ]

    def _wrong_steps(self, attempts: tuple[str, ...], *, sent: bool) -> Iterator[str]:
        numbers = {event["job"]["attempt"] for event in self.events}
        if surplus := numbers - set(range(1, len(attempts) + 1)):
            yield f"unexpected attempts {surplus}"
        for number, expected in enumerate(attempts, 1):
            steps = " ".join(map(what, self.attempt(number)))
            if steps != expected:
                yield f"attempt {number}: {steps or 'nothing'!r}, expected {expected!r}"
            if len(self.sent_of(number)) != (sent or number > 1):
                yield f"attempt {number}: {len(self.sent_of(number))} times sent"

    def _wrong_states(self) -> Iterator[str]:
        for event in self.events:
            job, name = event["job"], what(event)
            later = unix(job["scheduledFor"]) if "scheduledFor" in job else 0.0
            state = "scheduled" if name == "received" and later > at(event) else STATES[name]
            if job["state"] != state:
                yield f"{name} is {job['state']}, expected {state}"
        for number in {event["job"]["attempt"] for event in self.told}:
            previous = None
            for event in self.attempt(number):
                job, name = event["job"], what(event)
                if name == "received":
                    previous = None
                known = job.get("previousState")
                # Of a message that never became a request, `queued` is known without an event.
                if known != previous and not (previous is None and known == "queued"):
                    yield f"previousState of {name} is {known}, expected {previous}"
                previous = job["state"]

    def _wrong_times(self) -> Iterator[str]:
        for number in {event["job"]["attempt"] for event in self.events}:
            steps = [*self.sent_of(number), *self.attempt(number)]
            for before, after in pairwise(steps):
                if at(after) < at(before):
                    early = (at(before) - at(after)) * 1000
                    yield f"attempt {number}: {what(after)} {early:.3f} ms before {what(before)}"
            started = None
            for event in steps:
                job, name = event["job"], what(event)
                if name == "received":
                    started = None
                if name == "started":
                    started = event["timestamp"]
                if job.get("startedAt") != started:
                    yield f"startedAt of {name} is {job.get('startedAt')}, expected {started}"
                final = name in ENDS and name not in ("retried", "requeued")
                completed = event["timestamp"] if final else None
                if job.get("completedAt") != completed:
                    yield f"completedAt of {name} is {job.get('completedAt')}, not {completed}"
                created = event["timestamp"] if name == "sent" else None
                if job.get("createdAt") != created:
                    yield f"createdAt of {name} is {job.get('createdAt')}, expected {created}"
            before = self.attempt(number - 1)
            if before and steps:
                if at(steps[0]) < at(before[0]):
                    yield f"attempt {number} began before attempt {number - 1} was received"
                # Celery publishes the next attempt before it tells of the retry.
                if (told := self.attempt(number)) and at(told[0]) < at(before[-1]):
                    yield f"attempt {number} was received before attempt {number - 1} ended"


def timelines(events: Iterable[Event]) -> dict[str, Timeline]:
    """The job events by task id."""
    found: dict[str, Timeline] = {}
    for event in events:
        if "job" in event:
            task_id = event["job"]["externalId"]
            line = found.setdefault(task_id, Timeline(task_id))
            (line.sent if what(event) == "sent" else line.told).append(event)
    return found
