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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_in_postgres
from sqlalchemy.dialects.sqlite import insert as insert_in_sqlite

from sluice.collector.attendance import Attendance, attendance_of
from sluice.collector.database import Database
from sluice.collector.rows import bounded, id_of, task_row
from sluice.collector.schema import events, facts, queues, tasks, workers
from sluice.collector.story import Story, clean, seconds, unpacked
from sluice.events import Event

#: Seconds without a word before a worker's active tasks count as lost.
SILENCE: Final = 60.0
#: How many ids one query names.
_MANY: Final = 500
#: Seconds for which the number of a worker's event is known, to know a second copy.
_NUMBERS_KEPT: Final = 3600.0


@dataclass(slots=True)
class Taken:
    """What became of a batch."""

    accepted: int = 0
    duplicates: int = 0


@dataclass(slots=True)
class _Change:
    """What one transaction has in hand: rows to write, each once."""

    connection: sa.Connection
    now: float
    stories: dict[str, Story] = field(default_factory=dict)
    #: Those that were heard of, by name.
    workers: dict[str, Attendance] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def count(self, name: str, n: float = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + n


class Store:
    """What is kept, for those who write."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._insert = insert_in_postgres if database.is_postgres else insert_in_sqlite

    def take(self, batches: Sequence[Sequence[tuple[Event, bytes]]]) -> tuple[list[Taken], int]:
        """Take these batches in.  What became of each, and the number of the change."""
        with self._database.write() as connection:
            change = _Change(connection, self._clock())
            result = self._take_all(change, batches)
            return result, self._finish(change)

    def count(self, counts: dict[str, float]) -> None:
        """Add to the facts what is no change: refusals, faults in bodies."""
        with self._database.write() as connection:
            self._add(connection, counts)
            if counts.get("refused_keys"):
                self._note(connection, "last_refused", self._clock())

    def lose_silent(self) -> int | None:
        """Tasks that are active where nothing was heard for long: lost.  The change, if any."""
        before = self._clock() - SILENCE
        with self._database.write() as connection:
            change = _Change(connection, self._clock())
            found = connection.scalars(
                sa.select(tasks.c.story)
                .join(workers, workers.c.id == tasks.c.worker)
                .where(tasks.c.state == "active", workers.c.heard < before)
                .limit(5 * _MANY)
            ).all()
            for one in found:
                story = unpacked(one)
                story.silent = True
                change.stories[story.id] = story
            if not found:
                return None
            return self._finish(change)

    def prune(self, *, tasks_kept: int, bytes_kept: int, oldest: float) -> int | None:
        """Delete a share of what is over a bound: what has ended first.  The change, if any.

        `oldest` is a time: what has not changed since goes.
        """
        with self._database.write() as connection:
            change = _Change(connection, self._clock())
            size = self._fact(connection, "bytes")
            number = connection.scalar(sa.select(sa.func.count()).select_from(tasks)) or 0
            over = number - tasks_kept
            if size > bytes_kept:
                over = max(over, int(number * (1 - bytes_kept / size)) + 1)
            gone: list[str] = []
            if over > 0:
                gone = self._oldest(connection, min(over, 10 * _MANY))
            else:
                gone = list(
                    connection.scalars(
                        sa.select(tasks.c.id).where(tasks.c.changed < oldest).limit(10 * _MANY)
                    )
                )
            self._forget(connection, change, gone)
            connection.execute(
                events.delete().where(
                    events.c.task.is_(None), events.c.received < change.now - 3600
                )
            )
            connection.execute(workers.delete().where(workers.c.heard < oldest))
            if not gone:
                return None
            change.count("pruned", len(gone))
            return self._finish(change)

    def clear(self) -> tuple[int, int]:
        """Forget everything but the numbers of changes.  How many tasks, and the change."""
        with self._database.write() as connection:
            change = _Change(connection, self._clock())
            number = connection.scalar(sa.select(sa.func.count()).select_from(tasks)) or 0
            for table in (events, tasks, workers, queues):
                connection.execute(table.delete())
            connection.execute(
                facts.update().where(facts.c.name.not_in(("version", "seq", "since"))).values(n=0)
            )
            return number, self._finish(change)

    # --- one transaction --------------------------------------------------------------------------

    def _take_all(
        self, change: _Change, batches: Sequence[Sequence[tuple[Event, bytes]]]
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
        self._load(change, {event.job.external_id for event, _, _ in new if event.job})
        names = {event.worker.external_id for event, _, _ in new if event.worker}
        change.workers = self._workers(change.connection, names)
        for name in filter(None, map(clean, names)):
            change.workers.setdefault(name, Attendance(name))
        for event, _, _ in new:
            self._apply(change, event)
        if new:
            self._note(change.connection, "last_event", change.now)
        self._settle(change)
        return result

    def _known_ids(
        self, connection: sa.Connection, batches: Sequence[Sequence[tuple[Event, bytes]]]
    ) -> set[str]:
        ids = [one for batch in batches for event, _ in batch if (one := id_of(event))]
        known: set[str] = set()
        for some in _parts(ids):
            query = sa.select(events.c.event_id).where(events.c.event_id.in_(some))
            known.update(connection.scalars(query))
        return known

    @staticmethod
    def _keep(change: _Change, new: list[tuple[Event, bytes, str | None]]) -> None:
        rows: list[dict[str, Any]] = []
        for event, body, event_id in new:
            task = event.job.external_id if event.job else None
            if task is not None:
                change.count("bytes", len(body))
            elif event_id is None:
                continue
            rows.append(
                {
                    "event_id": event_id,
                    "task": clean(task),
                    "at": seconds(event.timestamp) or 0.0,
                    "received": change.now,
                    "size": len(body) if task is not None else 0,
                    "body": body.decode() if task is not None else None,
                }
            )
        if rows:
            change.connection.execute(events.insert(), rows)

    @staticmethod
    def _load(change: _Change, ids: Iterable[str]) -> None:
        wanted = [one for one in map(clean, ids) if one and one not in change.stories]
        for some in _parts(wanted):
            query = sa.select(tasks.c.story).where(tasks.c.id.in_(some))
            for one in change.connection.scalars(query):
                story = unpacked(one)
                change.stories[story.id] = story

    def _apply(self, change: _Change, event: Event) -> None:
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

    def _take_queue(self, change: _Change, event: Event) -> None:
        queue, at = event.queue, seconds(event.timestamp)
        if queue is None or at is None:
            return
        table = self._insert(queues)
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

    def _settle(self, change: _Change) -> None:
        """Tasks that were active on a worker that ended are lost; a voice takes silence back."""
        for name, worker in change.workers.items():
            state = "active" if worker.state == "offline" else "lost"
            self._load(change, self._with_state(change.connection, name, state))
        busy: dict[str, list[Story]] = {}
        for story in change.stories.values():
            worker_name = story.text("worker")
            if worker_name is not None and story.text("state") == "active":
                busy.setdefault(worker_name, []).append(story)
        known = self._workers(change.connection, busy.keys() - change.workers.keys())
        for name, worker in {**known, **change.workers}.items():
            for story in busy.get(name, ()):
                story.silent = story.silent and name not in change.workers
                if worker.is_dead_since(story.worked):
                    story.lose(worker.offline_at or 0.0)

    @staticmethod
    def _workers(connection: sa.Connection, names: Iterable[str]) -> dict[str, Attendance]:
        found: dict[str, Attendance] = {}
        for some in _parts(list(filter(None, map(clean, names)))):
            for row in connection.execute(sa.select(workers).where(workers.c.id.in_(some))):
                found[row.id] = attendance_of(row)
        return found

    @staticmethod
    def _with_state(connection: sa.Connection, worker: str, state: str) -> list[str]:
        query = sa.select(tasks.c.id).where(tasks.c.worker == worker, tasks.c.state == state)
        return list(connection.scalars(query))

    def _finish(self, change: _Change) -> int:
        """Write what is in hand, and give the change its number."""
        rows = [task_row(story, change.now) for story in change.stories.values() if story.said]
        self._write(change.connection, tasks, rows)
        self._write(change.connection, workers, [one.row() for one in change.workers.values()])
        change.count("seq")
        self._add(change.connection, change.counts)
        seq = int(self._fact(change.connection, "seq"))
        if self._database.is_postgres:
            notify = sa.text("SELECT pg_notify('sluice', :seq)")
            change.connection.execute(notify, {"seq": str(seq)})
        return seq

    def _write(
        self, connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]
    ) -> None:
        """Write rows in the place of those with the same id."""
        if rows:
            insert = self._insert(table)
            set_ = {
                one.name: insert.excluded[one.name] for one in table.columns if one.name != "id"
            }
            connection.execute(
                insert.on_conflict_do_update(index_elements=[table.c.id], set_=set_), rows
            )

    @staticmethod
    def _oldest(connection: sa.Connection, number: int) -> list[str]:
        ended = sa.select(tasks.c.id).where(tasks.c.ended.is_not(None))
        gone = list(connection.scalars(ended.order_by(tasks.c.ended).limit(number)))
        if len(gone) < number:
            others = sa.select(tasks.c.id).where(tasks.c.ended.is_(None))
            gone += connection.scalars(others.order_by(tasks.c.seen).limit(number - len(gone)))
        return gone

    @staticmethod
    def _forget(connection: sa.Connection, change: _Change, ids: list[str]) -> None:
        for some in _parts(ids):
            size = sa.select(sa.func.sum(events.c.size))
            change.count("bytes", -(connection.scalar(size.where(events.c.task.in_(some))) or 0))
            connection.execute(events.delete().where(events.c.task.in_(some)))
            connection.execute(tasks.delete().where(tasks.c.id.in_(some)))

    @staticmethod
    def _add(connection: sa.Connection, counts: dict[str, float]) -> None:
        rows = [{"fact": name, "more": n} for name, n in counts.items() if n]
        if rows:
            connection.execute(
                facts.update()
                .where(facts.c.name == sa.bindparam("fact"))
                .values(n=facts.c.n + sa.bindparam("more")),
                rows,
            )

    @staticmethod
    def _note(connection: sa.Connection, name: str, n: float) -> None:
        connection.execute(facts.update().where(facts.c.name == name).values(n=n))

    @staticmethod
    def _fact(connection: sa.Connection, name: str) -> float:
        return connection.scalar(sa.select(facts.c.n).where(facts.c.name == name)) or 0.0


def _parts(values: Sequence[str]) -> Iterable[Sequence[str]]:
    for start in range(0, len(values), _MANY):
        yield values[start : start + _MANY]
