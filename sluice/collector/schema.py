"""The tables.  Times are Unix times in seconds, durations seconds, sizes bytes.

A change of a column needs a new `VERSION`: a database of another one is refused with a line
that says so, not read wrongly.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

VERSION: Final = 1

metadata = sa.MetaData()

tasks = sa.Table(
    "sluice_tasks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("queue", sa.Text),
    sa.Column("worker", sa.Text),
    sa.Column("attempt", sa.BigInteger, nullable=False),
    sa.Column("max_retries", sa.BigInteger),
    sa.Column("created", sa.Float(53)),
    sa.Column("scheduled", sa.Float(53)),
    sa.Column("started", sa.Float(53)),
    sa.Column("ended", sa.Float(53)),
    sa.Column("seen", sa.Float(53), nullable=False),
    sa.Column("changed", sa.Float(53), nullable=False),
    sa.Column("wait", sa.Float(53)),
    sa.Column("run", sa.Float(53)),
    #: Places of `wait` and `run` on the scale of :mod:`sluice.collector.spread`.
    sa.Column("wait_bin", sa.Integer),
    sa.Column("run_bin", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("exception", sa.Text),
    sa.Column("parent", sa.Text),
    sa.Column("root", sa.Text),
    sa.Column("duplicate", sa.Boolean, nullable=False),
    sa.Column("retries", sa.Integer, nullable=False),
    sa.Column("story", sa.LargeBinary, nullable=False),
)
sa.Index("sluice_tasks_seen", tasks.c.seen, tasks.c.id)
sa.Index("sluice_tasks_state", tasks.c.state, tasks.c.seen, tasks.c.id)
sa.Index("sluice_tasks_ended", tasks.c.ended)
sa.Index("sluice_tasks_root", tasks.c.root)
sa.Index("sluice_tasks_parent", tasks.c.parent)
sa.Index("sluice_tasks_slowest", tasks.c.name, tasks.c.run)
#: Of few: when a worker ends, some of these may turn out to be none.
sa.Index(
    "sluice_tasks_duplicate",
    tasks.c.id,
    sqlite_where=sa.text("duplicate = 1"),  # as SQLAlchemy asks for it
    postgresql_where=tasks.c.duplicate,
)

events = sa.Table(
    "sluice_events",
    metadata,
    sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    sa.Column("event_id", sa.Text, unique=True),
    #: None for an event of a worker: its number is kept for a while, to know a second copy.
    sa.Column("task", sa.Text),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("received", sa.Float(53), nullable=False),
    #: Bytes that it takes, about.
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("body", sa.Text),
    sqlite_autoincrement=True,
)
sa.Index("sluice_events_task", events.c.task)

workers = sa.Table(
    "sluice_workers",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", sa.Float(53), nullable=False),
    #: When that was received, by the clock of the collector.
    sa.Column("heard", sa.Float(53), nullable=False),
    sa.Column("online_at", sa.Float(53)),
    sa.Column("offline_at", sa.Float(53)),
    #: The last event as it came, without what is not shown.
    sa.Column("body", sa.Text, nullable=False),
)

queues = sa.Table(
    "sluice_queues",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("at", sa.Float(53), nullable=False),
    sa.Column("depth", sa.BigInteger),
    sa.Column("consumers", sa.BigInteger),
)

#: See :mod:`sluice.collector.tally`.
tallies = sa.Table(
    "sluice_tallies",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("slot", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("n", sa.BigInteger, nullable=False),
)

#: Counts of what happened, and the number of the last change ("seq").
facts = sa.Table(
    "sluice_facts",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("n", sa.Float(53), nullable=False),
)
FACTS: Final = (
    *("version", "seq", "since", "bytes", "events", "requests", "duplicates", "invalid"),
    *("refused_keys", "last_refused", "last_event", "dropped", "pruned", "kept_events", "fed"),
)


def fact(connection: sa.Connection, name: str) -> float:
    """What a fact is now; 0 where it was never noted."""
    return connection.scalar(sa.select(facts.c.n).where(facts.c.name == name)) or 0.0
