"""One batch of events -> the database, in one transaction.

Guarantees
----------
* An event is taken in once: its ``extensions.eventId`` is unique, and writers come one after
  the other in all processes (:meth:`Database.write`), so two copies never race.
* A row is the :class:`Story` of its task, written again whenever one of its events comes: what
  is shown never depends on the order of arrival.
* A worker that is known to be dead takes its active tasks along: they are *lost*.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from sluice.collector import retention
from sluice.collector.attendance import Attendance
from sluice.collector.change import MANY, Change, parts
from sluice.collector.database import Database
from sluice.collector.rows import bounded, id_of
from sluice.collector.schema import events, queues, tasks, workers
from sluice.collector.story import Story, clean, seconds
from sluice.events import Event

#: Seconds without a word before a worker's active tasks count as lost.
SILENCE: Final = 60.0
#: Bytes that an event costs besides its own, with its share of its task's row and of indexes:
#: measured on SQLite, with four events to a task.
_OVERHEAD: Final = 600


@dataclass(slots=True)
class Taken:
    """What became of a batch."""

    accepted: int = 0
    duplicates: int = 0


class Store:
    """What is kept, for those who write."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def take(self, batches: Sequence[Sequence[tuple[Event, bytes]]]) -> tuple[list[Taken], int]:
        """Take these batches in.  What became of each, and the number of the change."""
        with self._database.write() as connection:
            change = Change(connection, self._clock())
            result = self._take_all(change, batches)
            return result, change.finish()

    def count(self, counts: dict[str, float]) -> None:
        """Add to the facts what is no change: refusals, faults in bodies."""
        with self._database.write() as connection:
            change = Change(connection, self._clock(), counts=dict(counts))
            change.write_counts()
            if counts.get("refused_keys"):
                change.note("last_refused", change.now)

    def lose_silent(self) -> int | None:
        """Tasks that are active where nothing was heard for long: lost.  The change, if any."""
        before = self._clock() - SILENCE
        with self._database.write() as connection:
            change = Change(connection, self._clock())
            found = connection.scalars(
                sa.select(tasks.c.story)
                .join(workers, workers.c.id == tasks.c.worker)
                .where(
                    tasks.c.state == "active",
                    tasks.c.changed < before,
                    workers.c.heard < before,
                )
                .limit(5 * MANY)
            ).all()
            for one in found:
                change.load(one).silent = True
            if not found:
                return None
            return change.finish()

    def prune(self, *, tasks_kept: int, bytes_kept: int, oldest: float) -> int | None:
        """See :func:`retention.prune`.  The change, if any."""
        with self._database.write() as connection:
            change = Change(connection, self._clock())
            gone = retention.prune(
                change, tasks_kept=tasks_kept, bytes_kept=bytes_kept, oldest=oldest
            )
            return change.finish() if gone else None

    def clear(self) -> tuple[int, int]:
        """See :func:`retention.clear`.  How many tasks, and the change."""
        with self._database.write() as connection:
            change = Change(connection, self._clock())
            return retention.clear(change), change.finish()

    # --- one transaction --------------------------------------------------------------------------

    def _take_all(
        self, change: Change, batches: Sequence[Sequence[tuple[Event, bytes]]]
    ) -> list[Taken]:
        known = self._known_ids(change.connection, batches)
        new: list[tuple[Event, bytes, str | None]] = []
        result: list[Taken] = []
        for batch in batches:
            taken = Taken()
            for event, body in batch:
                event_id = id_of(event)
                if event_id is not None:
                    if event_id in known:
                        taken.duplicates += 1
                        continue
                    known.add(event_id)
                taken.accepted += 1
                new.append((event, body, event_id))
            result.append(taken)
        change.count("requests", len(batches))
        change.count("events", len(new))
        change.count("duplicates", sum(one.duplicates for one in result))
        self._keep(change, new)
        change.load_tasks({event.job.external_id for event, _, _ in new if event.job})
        names = {event.worker.external_id for event, _, _ in new if event.worker}
        change.workers = change.attendances(names)
        for name in filter(None, map(clean, names)):
            change.workers.setdefault(name, Attendance(name))
        long_ago = change.now - SILENCE / 2  # another process marks the silent, by its own clock
        returned = {name for name, one in change.workers.items() if one.heard < long_ago}
        for event, _, _ in new:
            self._apply(change, event)
        if new:
            change.note("last_event", change.now)
        ended = {
            clean(event.worker.external_id) or ""
            for event, _, _ in new
            if event.worker and event.worker.state == "offline"
        }
        self._settle(change, ended, returned)
        return result

    def _known_ids(
        self, connection: sa.Connection, batches: Sequence[Sequence[tuple[Event, bytes]]]
    ) -> set[str]:
        ids = [one for batch in batches for event, _ in batch if (one := id_of(event))]
        known: set[str] = set()
        for some in parts(ids):
            query = sa.select(events.c.event_id).where(events.c.event_id.in_(some))
            known.update(connection.scalars(query))
        return known

    @staticmethod
    def _keep(change: Change, new: list[tuple[Event, bytes, str | None]]) -> None:
        rows: list[dict[str, Any]] = []
        for event, body, event_id in new:
            task = event.job.external_id if event.job else None
            if task is None and event_id is None:
                continue
            size = len(body) + _OVERHEAD if task is not None else 0
            change.count("bytes", size)
            change.count("kept_events", task is not None)
            rows.append(
                {
                    "event_id": event_id,
                    "task": clean(task),
                    "at": seconds(event.timestamp) or 0.0,
                    "received": change.now,
                    "size": size,
                    "body": body.decode() if task is not None else None,
                }
            )
        if rows:
            change.connection.execute(events.insert(), rows)
            change.note("fed", change.connection.scalar(sa.select(sa.func.max(events.c.seq))) or 0)

    def _apply(self, change: Change, event: Event) -> None:
        if event.job is not None:
            task = clean(event.job.external_id) or ""
            story = change.stories.get(task)
            if story is None:
                story = change.stories[task] = Story(task)
            story.take(event)
            extensions: dict[str, Any] = dict(event.job.extensions)
        elif event.worker is not None:
            name = clean(event.worker.external_id) or ""
            change.workers[name].take(event, change.now)
            extensions = dict(event.worker.extensions)
        else:
            self._take_queue(change, event)
            return
        dropped = extensions.get("droppedEvents")
        if type(dropped) is int and dropped > 0:
            change.count("dropped", min(dropped, 2**53))

    def _take_queue(self, change: Change, event: Event) -> None:
        queue, at = event.queue, seconds(event.timestamp)
        if queue is None or at is None:
            return
        table = change.insert(queues)
        row = {
            "name": clean(queue.name) or "", "at": at,
            "depth": bounded(queue.depth), "consumers": bounded(queue.consumers),
        }  # fmt: skip
        change.connection.execute(
            table.on_conflict_do_update(
                index_elements=[queues.c.name],
                set_={one: table.excluded[one] for one in ("at", "depth", "consumers")},
                where=table.excluded.at >= queues.c.at,
            ),
            row,
        )

    def _settle(self, change: Change, ended: set[str], returned: set[str]) -> None:
        """Tasks of workers that ended are lost; a voice after a silence takes that back."""
        # The same batch may tell of the end of a worker and of the next one under its name.
        for name in ended:
            change.load_tasks(self._with_state(change.connection, name, "active"))
        if ended:
            change.load_tasks(
                change.connection.scalars(sa.select(tasks.c.id).where(tasks.c.duplicate))
            )
        for name in returned:
            change.load_tasks(self._with_state(change.connection, name, "lost"))
        held: dict[str, list[Story]] = {}
        for story in change.stories.values():
            for name in story.holders:
                held.setdefault(name, []).append(story)
        known = change.attendances(held.keys() - change.workers.keys()) | change.workers
        for name in held.keys() & known.keys():
            worker = known[name]
            for story in held[name]:
                if name in change.workers and story.text("worker") == name:
                    story.silent = False
                if worker.offline_at is not None and worker.offline_at >= story.begun:
                    story.lose(name, worker.offline_at)

    @staticmethod
    def _with_state(connection: sa.Connection, worker: str, state: str) -> list[str]:
        query = sa.select(tasks.c.id).where(tasks.c.worker == worker, tasks.c.state == state)
        return list(connection.scalars(query))
