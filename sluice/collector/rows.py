"""Stories and events as rows of the tables.  Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from sluice.collector.spread import place_of
from sluice.collector.story import Story, clean, packed
from sluice.events import Event

#: Characters of a name; an index of PostgreSQL's has no room for the contract's 1024.
_NAME_KEPT: Final = 500
#: States in which an exception that was told is the reason.
_FAULTY: Final = frozenset(("failed", "retrying", "cancelled", "lost"))
#: Of an event's id; a longer one is known by its digest.
_ID_KEPT: Final = 200


def task_row(story: Story, now: float) -> dict[str, Any]:
    """What is listed of a task.  `now`: when that changed."""
    wait, run = story.wait, story.run
    scheduled, retries = story.number("scheduled"), story.number("max_retries")
    created = story.created if story.created < 1e17 else None
    return {
        "id": story.id,
        "name": (story.text("name") or "unknown")[:_NAME_KEPT],
        "state": story.state,
        "queue": story.text("queue"),
        "worker": story.text("worker"),
        "attempt": story.attempt,
        "max_retries": None if retries is None else int(retries),
        "created": created,
        "scheduled": scheduled,
        "started": story.started,
        "ended": story.ended,
        "seen": story.first,
        "changed": now,
        "wait": wait,
        "run": run,
        "wait_bin": place_of(wait),
        "run_bin": place_of(run),
        "error": story.text("error") if story.state not in {"completed", "active"} else None,
        "exception": story.text("exception") if story.state in _FAULTY else None,
        "parent": story.text("parent"),
        "root": story.text("root"),
        "duplicate": story.is_duplicate,
        "retries": story.attempt - 1,
        "story": packed(story),
    }


def id_of(event: Event) -> str | None:
    """By what a second copy is known; None where an event says nothing of the kind."""
    subject = event.job or event.worker
    event_id = subject.extensions.get("eventId") if subject is not None else None
    # By its connection too: two applications may share a collector.
    if not isinstance(event_id, str) or not event_id:
        return None
    if len(event_id) > _ID_KEPT:
        event_id = sha256(event_id.encode()).hexdigest()
    return clean(f"{event.connection_id[:64]}/{event_id}")


def bounded(number: int | None) -> int | None:
    """A number that a database can keep."""
    return None if number is None else max(-(2**53), min(number, 2**53))
