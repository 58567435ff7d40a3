"""What is kept, and for how long: a number of tasks, of bytes, and an age; the oldest go first.

What has ended goes before what has not, and a task goes with all its events, so that nothing is
left of which a part is missing.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from sluice.collector.change import MANY, Change, parts
from sluice.collector.schema import events, facts, queues, tallies, tasks, workers
from sluice.collector.tally import of_name, slot_of

#: What one turn deletes at most, so that writers wait for a moment only.
_MOST_AT_ONCE: Final = 10 * MANY
#: Seconds for which is known what ended when.
_SLOTS_KEPT: Final = 900.0
#: Seconds for which the number of a worker's event is known, to know a second copy.
_NUMBERS_KEPT: Final = 3600.0


def prune(change: Change, *, tasks_kept: int, bytes_kept: int, oldest: float) -> int:
    """Delete a share of what is over a bound.  How many tasks.

    `oldest` is a time: what has not changed since goes.
    """
    connection = change.connection
    size = change.fact("bytes")
    number = connection.scalar(sa.select(sa.func.count()).select_from(tasks)) or 0
    over = number - tasks_kept
    if size > bytes_kept:
        over = max(over, int(number * (1 - bytes_kept / size)) + 1)
    if over > 0:
        gone = _oldest(connection, min(over, _MOST_AT_ONCE))
    else:
        aged = sa.select(tasks.c.id).where(tasks.c.changed < oldest).limit(_MOST_AT_ONCE)
        gone = list(connection.scalars(aged))
    _forget(change, gone)
    _sweep(change, oldest)
    change.count("pruned", len(gone))
    return len(gone)


def clear(change: Change) -> int:
    """Forget everything but the numbers of changes.  How many tasks."""
    number = change.connection.scalar(sa.select(sa.func.count()).select_from(tasks)) or 0
    for table in (events, tasks, workers, queues, tallies):
        change.connection.execute(table.delete())
    kept = facts.c.name.in_(("version", "seq", "since", "fed"))
    change.connection.execute(facts.update().where(~kept).values(n=0))
    return number


def _oldest(connection: sa.Connection, number: int) -> list[str]:
    ended = sa.select(tasks.c.id).where(tasks.c.ended.is_not(None))
    gone = list(connection.scalars(ended.order_by(tasks.c.ended).limit(number)))
    if len(gone) < number:
        others = sa.select(tasks.c.id).where(tasks.c.ended.is_(None))
        gone += connection.scalars(others.order_by(tasks.c.seen).limit(number - len(gone)))
    return gone


def _forget(change: Change, ids: list[str]) -> None:
    for some in parts(ids):
        marked = sa.select(tasks.c.name, tasks.c.state, tasks.c.wait_bin, tasks.c.run_bin)
        for row in change.connection.execute(marked.where(tasks.c.id.in_(some))):
            change.marks.subtract(of_name(row._asdict()))
        size = sa.select(sa.func.sum(events.c.size)).where(events.c.task.in_(some))
        change.count("bytes", -(change.connection.scalar(size) or 0))
        deleted = change.connection.execute(events.delete().where(events.c.task.in_(some)))
        change.count("kept_events", -deleted.rowcount)
        change.connection.execute(tasks.delete().where(tasks.c.id.in_(some)))


def _sweep(change: Change, oldest: float) -> None:
    """What belongs to no task: numbers of workers' events, silent workers, old queues."""
    numbers = events.c.task.is_(None) & (events.c.received < change.now - _NUMBERS_KEPT)
    past = (tallies.c.name == "") & (tallies.c.slot < slot_of(change.now - _SLOTS_KEPT))
    for statement in (
        events.delete().where(numbers),
        workers.delete().where(workers.c.heard < oldest),
        queues.delete().where(queues.c.at < oldest),
        tallies.delete().where((tallies.c.n <= 0) | past),
    ):
        change.connection.execute(statement)
