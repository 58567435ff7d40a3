"""One transaction: what it has in hand, and how that is written, each row once.

Whatever changes a task goes through here, so that its row, its counts and the number of the
change are always written together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_in_postgres
from sqlalchemy.dialects.sqlite import insert as insert_in_sqlite

from sluice.collector.attendance import Attendance, attendance_of
from sluice.collector.rows import task_row
from sluice.collector.schema import fact, facts, tallies, tasks, workers
from sluice.collector.story import Story, clean, unpacked
from sluice.collector.tally import Mark, difference

#: How many ids one query names.
MANY: Final = 500


@dataclass(slots=True)
class Change:
    """What is changed, from `Database.write` to `finish`."""

    connection: sa.Connection
    now: float
    stories: dict[str, Story] = field(default_factory=dict)
    #: The rows of these as they are in the database.
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Those that were heard of, by name.
    workers: dict[str, Attendance] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    marks: Counter[Mark] = field(default_factory=Counter)

    @property
    def is_postgres(self) -> bool:
        """By the connection."""
        return self.connection.dialect.name == "postgresql"

    def insert(self, table: sa.Table) -> Any:
        """An insert that can say what to do where there is such a row."""
        return insert_in_postgres(table) if self.is_postgres else insert_in_sqlite(table)

    def load(self, packed: bytes) -> Story:
        """A story from the database."""
        story = unpacked(packed)
        self.stories[story.id] = story
        self.rows[story.id] = task_row(story, 0.0)
        return story

    def load_tasks(self, ids: Iterable[str]) -> None:
        """Have the stories of these in hand, as far as there are any."""
        wanted = [one for one in map(clean, ids) if one and one not in self.stories]
        for some in parts(wanted):
            query = sa.select(tasks.c.story).where(tasks.c.id.in_(some))
            for one in self.connection.scalars(query):
                self.load(one)

    def attendances(self, names: Iterable[str]) -> dict[str, Attendance]:
        """What is known of these workers."""
        found: dict[str, Attendance] = {}
        for some in parts(list(filter(None, map(clean, names)))):
            for row in self.connection.execute(sa.select(workers).where(workers.c.id.in_(some))):
                found[row.id] = attendance_of(row)
        return found

    def count(self, name: str, n: float = 1) -> None:
        """Add to a fact."""
        self.counts[name] = self.counts.get(name, 0) + n

    def note(self, name: str, n: float) -> None:
        """Set a fact."""
        self.connection.execute(facts.update().where(facts.c.name == name).values(n=n))

    def fact(self, name: str) -> float:
        """What a fact is now."""
        return fact(self.connection, name)

    def finish(self) -> int:
        """Write what is in hand, and give the change its number."""
        rows = []
        for story in self.stories.values():
            row, before = task_row(story, self.now), self.rows.get(story.id)
            if before is None or before | {"changed": self.now} != row:  # it may only be looked at
                rows.append(row)
                self.marks.update(difference(before, row))
        self._write(tasks, rows)
        self._write(workers, [one.row() for one in self.workers.values()])
        self._write_marks()
        self.count("seq")
        self.write_counts()
        seq = int(self.fact("seq"))
        if self.is_postgres:
            notify = sa.text("SELECT pg_notify('sluice', :seq)")
            self.connection.execute(notify, {"seq": str(seq)})
        return seq

    def write_counts(self) -> None:
        """Add what was counted to the facts."""
        rows = [{"fact": name, "more": n} for name, n in self.counts.items() if n]
        self.counts = {}
        if rows:
            self.connection.execute(
                facts.update()
                .where(facts.c.name == sa.bindparam("fact"))
                .values(n=facts.c.n + sa.bindparam("more")),
                rows,
            )

    def _write(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        """Write rows in the place of those with the same id."""
        if rows:
            insert = self.insert(table)
            names = [one.name for one in table.columns if one.name != "id"]
            set_ = {name: insert.excluded[name] for name in names}
            self.connection.execute(
                insert.on_conflict_do_update(index_elements=[table.c.id], set_=set_), rows
            )

    def _write_marks(self) -> None:
        rows = [
            {"name": name, "slot": slot, "kind": kind, "place": place, "n": n}
            for (name, slot, kind, place), n in self.marks.items()
            if n
        ]
        if rows:
            insert = self.insert(tallies)
            added = insert.on_conflict_do_update(
                index_elements=list(tallies.primary_key),
                set_={"n": tallies.c.n + insert.excluded.n},
            )
            self.connection.execute(added, rows)


def parts(values: Sequence[str]) -> Iterable[Sequence[str]]:
    """As many at a time as one query names."""
    for start in range(0, len(values), MANY):
        yield values[start : start + MANY]
