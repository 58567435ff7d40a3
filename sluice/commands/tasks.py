"""``sluice tasks``: the collector's tasks as a table, or as JSON for scripts."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from sluice.commands import address, amounts
from sluice.commands.ending import NoAnswer, ends_well
from sluice.commands.terminal import (
    COLOURS,
    Column,
    clock,
    complain,
    first_line,
    joined,
    plain,
    room,
    say,
    table,
)
from sluice.demo.screen import Style, seconds

if TYPE_CHECKING:
    from sluice.commands.client import Collector, Query

STATES: Final = (
    *("unknown", "queued", "scheduled", "active", "completed"),
    *("failed", "retrying", "cancelled", "lost"),
)
_SORTS: Final = ("newest", "oldest", "slowest", "waited")
#: Tasks in one answer.
_PAGE: Final = 200

_COLUMNS: Final = (
    Column("SEEN", 3),
    Column("STATE", 0),
    Column("NAME", 1, least=16),
    Column("ID", 2, least=9),
    Column("TRY", 8, right=True),
    Column("QUEUE", 9, least=8),
    Column("WORKER", 7, least=12),
    Column("WAIT", 6, right=True),
    Column("RUN", 4, right=True),
    Column("ERROR", 5, least=16),
)
_STATE_PLACE: Final = 1


def add_parser(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "tasks",
        help="list the tasks of a collector",
        description="Lists the tasks that the collector of `sluice dev` knows, newest first.",
    )
    add = parser.add_argument
    add_state(parser)
    add("--name", metavar="NAME", help="of this task name")
    add("--queue", metavar="NAME", help="of this queue")
    add("--worker", metavar="NAME", help="of this worker, such as celery@host")
    add("--q", metavar="TEXT", help="with this in their name or id, in whatever case")
    add(
        "--since",
        type=amounts.moment,
        metavar="TIME",
        help="not older than 90s, 10m, 24h, 7d, or an ISO time (of this machine, without a zone)",
    )
    add(
        "--limit",
        type=amounts.count,
        default=50,
        metavar="N",
        help="at most so many (default: %(default)s)",
    )
    add("--sort", choices=_SORTS, default="newest", help="(default: %(default)s)")
    add("--json", action="store_true", help="one JSON array of the jobs as the API has them")
    address.add_options(parser)
    parser.set_defaults(run=ends_well(_run))


def add_state(parser: argparse.ArgumentParser) -> None:
    """`--state`, as often as one likes."""
    parser.add_argument(
        "--state",
        action="append",
        choices=STATES,
        metavar="STATE",
        help=f"in this state; may be repeated ({', '.join(STATES)})",
    )


def _run(arguments: argparse.Namespace) -> int:
    from sluice.commands.client import Collector

    collector = Collector(address.find(arguments))
    since = arguments.since
    query: Query = {
        "state": arguments.state,
        "name": arguments.name,
        "queue": arguments.queue,
        "worker": arguments.worker,
        "q": arguments.q,
        "since": None if since is None else since.isoformat().replace("+00:00", "Z"),
        "sort": arguments.sort,
    }
    # One more than asked for: then it is known whether there are more.
    found = list(
        itertools.islice(_jobs(collector, query, arguments.limit + 1), arguments.limit + 1)
    )
    jobs = found[: arguments.limit]
    if arguments.json:
        say(json.dumps(jobs, indent=2))  # in ASCII, so that a terminal obeys nothing in it
    elif jobs:
        for line in lines(jobs, room(), Style.of(sys.stdout)):
            say(line)
    else:
        complain("No task matches.")
    if len(found) > len(jobs):
        complain(f"There are more than these {len(jobs)}: --limit N.")
    return 0


def _jobs(collector: Collector, query: Query, wanted: int) -> Iterator[dict[str, Any]]:
    """The jobs of one page after the other."""
    cursor: str | None = None
    while True:
        page = {**query, "limit": min(wanted, _PAGE), "cursor": cursor}
        answer = collector.get("jobs", page)
        jobs, cursor = answer.get("jobs"), answer.get("next")
        if not isinstance(jobs, list):
            raise NoAnswer(f"What answers at {collector.page} is no collector of Sluice's.")
        yield from jobs
        if cursor is None or not jobs:
            return


def lines(jobs: list[dict[str, Any]], width: int | None, style: Style) -> Iterator[str]:
    """A heading and one line for each job, at most `width` wide."""
    heading, *rows = table(_COLUMNS, [_row(job) for job in jobs], width)
    yield style.paint(joined(heading), 2)
    for job, cells in zip(jobs, rows, strict=True):
        # The column of the state never leaves, and only that of the time is before it.
        place = _STATE_PLACE if heading[0].strip() == "SEEN" else 0
        colour = COLOURS.get(str(job.get("state")))
        if colour is not None:
            cells[place] = style.paint(cells[place], colour)
        yield style.text(joined(cells))


def _row(job: Mapping[str, Any]) -> list[str]:
    attempt = job.get("attempt")
    return [
        clock(job.get("seenAt")),
        plain(str(job.get("state"))),
        plain(str(job.get("name"))),
        plain(str(job.get("id"))),
        str(attempt) if isinstance(attempt, int) and attempt > 1 else "",
        plain(str(job.get("queue") or "")),
        plain(str(job.get("worker") or "")),
        took(job.get("wait")),
        took(job.get("run")),
        first_line(job.get("error")),
    ]


def took(duration: object) -> str:
    """A duration in seconds for people; empty where it is not known."""
    return seconds(duration) if isinstance(duration, (int, float)) else ""
