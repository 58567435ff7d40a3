"""Lists of tasks: filters, orders, and pages by a cursor.

A page begins after the last row of the one before, by the columns of its order and the id: a
row that arrives meanwhile moves nothing, and the ten-thousandth page costs what the first does.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from sluice.collector.schema import tasks, workers
from sluice.collector.story import STATES

MOST: Final = 200
#: Seconds without a word after which a worker counts as silent (the contract's).
SILENT_AFTER: Final = 6.0
#: An active task is stalled if it runs ten times as long as most of its name, and this long.
_STALLED_TIMES: Final = 10.0
_STALLED_LEAST: Final = 30.0
#: Retries that make a storm, if they came closer together than this many seconds.
_STORM_RETRIES: Final = 5
_STORM_PACE: Final = 60.0
_MOST_TEXT: Final = 1024
#: A cursor holds an id of 512 characters, each of up to six bytes (as in \u0001), in base 64.
_MOST_CURSOR: Final = 4352
_LEAST: Final = -1.0
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")

COLUMNS: Final = tuple(column for column in tasks.columns if column.name != "story")
#: Order -> column, whether it falls, and what stands for a value that is not there.
_ORDERS: Final[dict[str, tuple[sa.ColumnElement[float], bool]]] = {
    "newest": (tasks.c.seen, True),
    "oldest": (tasks.c.seen, False),
    "slowest": (sa.func.coalesce(tasks.c.run, _LEAST), True),
    "waited": (sa.func.coalesce(tasks.c.wait, _LEAST), True),
}


class BadQuery(ValueError):
    """A parameter that cannot be used; says which and why."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Query:
    """What to list."""

    states: tuple[str, ...] = ()
    #: Part of the name or of the id, in any case.
    text: str | None = None
    name: str | None = None
    queue: str | None = None
    worker: str | None = None
    exception: str | None = None
    since: float | None = None
    until: float | None = None
    sort: str = "newest"
    limit: int = 50
    after: tuple[float, str] | None = None

    @classmethod
    def of(cls, values: Mapping[str, Sequence[str]]) -> Query:
        """By the parameters of a URL.  Raises :class:`BadQuery`."""
        known = {
            *("state", "q", "name", "queue", "worker", "exception", "since", "until"),
            *("sort", "limit", "cursor", "format"),
        }
        for name, given in values.items():
            if name not in known:
                raise BadQuery(name, "There is no such parameter.")
            if name != "state" and len(given) > 1:
                raise BadQuery(name, "It can be given once.")
            most = _MOST_CURSOR if name == "cursor" else _MOST_TEXT
            if any(len(one) > most or "\0" in one for one in given):
                raise BadQuery(name, f"It has at most {most} characters, and no NUL.")
        one = {name: given[0] for name, given in values.items() if given and given[0]}
        states = tuple(dict.fromkeys(one for one in values.get("state", ()) if one))
        for state in states:
            if state not in STATES:
                raise BadQuery("state", f"Accepted are {', '.join(STATES)}.")
        sort = one.get("sort", "newest")
        if sort not in _ORDERS:
            raise BadQuery("sort", f"Accepted are {', '.join(_ORDERS)}.")
        return cls(
            states=states,
            text=one.get("q"),
            name=one.get("name"),
            queue=one.get("queue"),
            worker=one.get("worker"),
            exception=one.get("exception"),
            since=_time("since", one.get("since")),
            until=_time("until", one.get("until")),
            sort=sort,
            limit=whole("limit", one.get("limit"), 50, 1, MOST),
            after=read_cursor(one.get("cursor")),
        )


def select(query: Query, dialect: str) -> sa.Select[Any]:
    """The rows, `limit` and one more, in order.  `dialect` is SQLAlchemy's name of the database."""
    column, falls = _ORDERS[query.sort]
    chosen = sa.select(*COLUMNS, column.label("place"))
    for filtered, value in (
        (tasks.c.name, query.name),
        (tasks.c.queue, query.queue),
        (tasks.c.worker, query.worker),
        (tasks.c.exception, query.exception),
    ):
        if value is not None:
            chosen = chosen.where(filtered == value)
    if query.states:
        chosen = chosen.where(tasks.c.state.in_(query.states))
    if query.text is not None:
        in_name, in_id = (_holds(one, query.text, dialect) for one in (tasks.c.name, tasks.c.id))
        chosen = chosen.where(in_name | in_id)
    if query.since is not None:
        chosen = chosen.where(tasks.c.seen >= query.since)
    if query.until is not None:
        chosen = chosen.where(tasks.c.seen < query.until)
    if query.after is not None:
        here = sa.tuple_(column, tasks.c.id)
        there = sa.tuple_(sa.literal(query.after[0]), sa.literal(query.after[1]))
        chosen = chosen.where(here < there if falls else here > there)
    order = (column.desc(), tasks.c.id.desc()) if falls else (column, tasks.c.id)
    return chosen.order_by(*order).limit(query.limit + 1)


def _holds(column: sa.Column[str], text: str, dialect: str) -> sa.ColumnElement[bool]:
    """Whether a column has this in it, in any case.

    SQLite knows the case of ASCII only.  What is beyond that it finds by a pattern that has both
    forms of each letter: a function of Python's would be called for every row, beside the loop.
    """
    if text.isascii() or dialect != "sqlite":
        return column.icontains(text, autoescape=True)
    return column.bool_op("GLOB")(f"*{''.join(map(_either_case, text))}*")


def _either_case(character: str) -> str:
    forms = {character, character.lower(), character.upper()}
    letters = "".join(sorted(one for one in forms if len(one) == 1))
    return f"[{letters}]" if len(letters) > 1 or character in "*?[" else character


def page(rows: Sequence[sa.Row[Any]], limit: int) -> tuple[Sequence[sa.Row[Any]], str | None]:
    """The rows of a page, and the cursor of the next one."""
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], _cursor(last.place, last.id)


def jobs(connection: sa.Connection, query: Query, usual: Mapping[str, float]) -> dict[str, Any]:
    """The answer to ``GET /api/jobs``.  `usual`: name -> the run time that 95 % stay below."""
    found = connection.execute(select(query, connection.dialect.name)).all()
    rows, following = page(found, query.limit)
    silent = silent_workers(connection, {row.worker for row in rows if row.state == "active"})
    return {"jobs": [job(row, usual, silent) for row in rows], "next": following}


def silent_workers(connection: sa.Connection, names: set[str | None]) -> set[str]:
    """Those of these workers that have ended, or were not heard of for six seconds."""
    some = [name for name in names if name is not None]
    if not some:
        return set()
    query = sa.select(workers.c.id).where(
        workers.c.id.in_(some),
        (workers.c.heard < time.time() - SILENT_AFTER) | (workers.c.state == "offline"),
    )
    return set(connection.scalars(query))


def job(row: Any, usual: Mapping[str, float], silent: set[str]) -> dict[str, Any]:
    """A task as the API shows it."""
    return {
        "id": row.id,
        "name": row.name,
        "state": row.state,
        "queue": row.queue,
        "worker": row.worker,
        "attempt": row.attempt,
        "maxRetries": row.max_retries,
        "createdAt": iso(row.created),
        "scheduledFor": iso(row.scheduled),
        "startedAt": iso(row.started),
        "completedAt": iso(row.ended),
        "seenAt": iso(row.seen),
        "changedAt": iso(row.changed),
        "wait": row.wait,
        "run": row.run,
        "error": row.error,
        "exception": row.exception,
        "parentId": row.parent,
        "rootId": row.root,
        "badges": _badges(row, usual, silent),
    }


def _badges(row: Any, usual: Mapping[str, float], silent: set[str]) -> list[str]:
    found = []
    now = time.time()
    if row.state == "active" and row.started is not None:
        bound = max(_STALLED_LEAST, _STALLED_TIMES * usual.get(row.name, 0.0))
        if row.name in usual and now - row.started > bound:
            found.append("stalled")
    if row.state == "active" and row.worker in silent:
        found.append("orphaned")
    if row.duplicate:
        found.append("duplicate")
    if row.retries >= _STORM_RETRIES:
        until = row.ended or row.started or row.changed
        if until - row.seen < row.retries * _STORM_PACE:
            found.append("storm")
    return found


def iso(at: float | None) -> str | None:
    """Unix time in seconds as ISO 8601 in UTC; None for what no calendar has."""
    if at is None:
        return None
    try:
        text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None
    return text.replace("+00:00", "Z")


def whole(name: str, text: str | None, default: int, least: int, most: int) -> int:
    """A whole number from a URL.  Raises :class:`BadQuery`."""
    if text is None:
        return default
    number = int(text) if _WHOLE.fullmatch(text) else None
    if number is None or not least <= number <= most:
        raise BadQuery(name, f"Accepted is a whole number from {least} to {most}.")
    return number


def _time(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise BadQuery(name, "Accepted is a time such as 2026-01-31T12:00:00Z.") from None


def _cursor(place: float, task: str) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode((place, task))).decode().rstrip("=")


def read_cursor(text: str | None) -> tuple[float, str] | None:
    """What a page's `next` says.  Raises :class:`BadQuery`."""
    if text is None:
        return None
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        place, task = msgspec.json.decode(data, type=tuple[float, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError, UnicodeError):
        place, task = 0.0, "\0"
    if "\0" in task:  # which no id has, and PostgreSQL does not take
        raise BadQuery("cursor", "Accepted is the 'next' of the page before.")
    return place, task
