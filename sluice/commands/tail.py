"""``sluice tail``: events as they arrive, one line each."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sluice.commands import address
from sluice.commands.ending import NoAnswer, NotReached, ends_well
from sluice.commands.tasks import add_state, took
from sluice.commands.terminal import (
    COLOURS,
    clock,
    complain,
    first_line,
    fit,
    plain,
    room,
    say,
)
from sluice.demo.screen import Style

if TYPE_CHECKING:
    from sluice.commands.client import Collector

#: Seconds between two questions, and while the collector is away.
_EVERY: Final = 0.25
_AWAY: Final = 1.0
#: Events in one answer.
_PAGE: Final = 500
#: The longest state, so that names begin in one column.
_STATE_WIDTH: Final = len("completed")


class Follower:
    """All events of a collector from now on, each once, also after a clear or a restart.

    A collector that keeps nothing counts from the beginning when it starts again.  That is seen
    by a last number below ours, or by an event of our number that is another one.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        #: The number up to which all was seen; None: nothing was asked for yet.
        self._after: int | None = None
        #: The number of the last event, and when it arrived there.
        self._last: tuple[int, object] | None = None
        self._was_away = False

    def turn(self) -> tuple[list[dict[str, Any]], bool]:
        """What is new, and whether there may be more at once.

        Raises :class:`~sluice.commands.ending.NoAnswer`; what was missed comes the next time.
        """
        if self._after is None:
            self._after = self._number(self._collector.get("events", {"after": -1}))
            return [], False
        try:
            if self._was_away and self._is_another():
                self._begin()
            answer = self._ask(self._after, _PAGE)
            if self._number(answer) < self._after:
                self._begin()
                answer = self._ask(0, _PAGE)
        except NotReached:
            self._was_away = True
            raise
        self._was_away = False
        events: list[dict[str, Any]] = answer["events"]
        more = len(events) >= _PAGE
        if not more:
            self._after = max(self._after, self._number(answer))  # past those of workers
        if events:
            self._last = events[-1]["seq"], events[-1].get("receivedAt")
            self._after = max(self._after, self._last[0])
        return events, more

    def _begin(self) -> None:
        self._after, self._last = 0, None

    def _is_another(self) -> bool:
        """Whether the last event's number has another one by now: they began anew."""
        if self._last is None:
            return False
        number, received = self._last
        for entry in self._ask(number - 1, 1)["events"]:
            if entry["seq"] == number:
                return bool(entry.get("receivedAt") != received)
        return False  # it is gone, as the oldest are

    def _ask(self, after: int, limit: int) -> dict[str, Any]:
        answer = self._collector.get("events", {"after": after, "limit": limit})
        if not isinstance(answer.get("events"), list):
            raise NoAnswer(f"What answers at {self._collector.page} is no collector of Sluice's.")
        return answer

    def _number(self, answer: Mapping[str, Any]) -> int:
        last = answer.get("last")
        if not isinstance(last, int):
            raise NoAnswer(f"What answers at {self._collector.page} is no collector of Sluice's.")
        return last


def add_parser(add_parser: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = add_parser(
        "tail",
        help="follow the events of a collector",
        description=(
            "Prints each event of a task that arrives at the collector of `sluice dev` from now"
            " on. Ctrl-C ends it."
        ),
    )
    add_state(parser)
    parser.add_argument("--name", metavar="NAME", help="of this task name")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, the event as it was sent"
    )
    address.add_options(parser)
    parser.set_defaults(run=ends_well(_run))


def _run(arguments: argparse.Namespace) -> int:
    from sluice.commands.client import Collector

    follower = Follower(Collector(address.find(arguments)))
    style = Style.of(sys.stdout)
    follower.turn()
    complain("Waiting for events; Ctrl-C ends this.")
    away = False
    while True:
        try:
            entries, more = follower.turn()
        except NotReached as error:
            if not away:
                complain(f"{error} Waiting for it.")
            away = True
            time.sleep(_AWAY)
            continue
        if away:
            complain("It is there again.")
            away = False
        for entry in entries:
            if is_wanted(entry["event"], arguments.state, arguments.name):
                say(json.dumps(entry) if arguments.json else line(entry["event"], room(), style))
        if not more:
            time.sleep(_EVERY)


def is_wanted(event: Mapping[str, Any], states: list[str] | None, name: str | None) -> bool:
    """Whether it is an event of a task that passes the filters."""
    job = event.get("job")
    if not isinstance(job, dict):
        return False
    return (not states or job.get("state") in states) and name in (None, job.get("name"))


def line(event: Mapping[str, Any], width: int | None, style: Style) -> str:
    """One event for people, at most `width` wide."""
    job: Mapping[str, Any] = event["job"]
    state, attempt = plain(str(job.get("state"))), job.get("attempt")
    parts = (
        plain(str(job.get("name"))),
        plain(str(job.get("externalId"))),
        plain(str(job.get("workerId") or "")),
        f"attempt {attempt}" if isinstance(attempt, int) and attempt > 1 else "",
        took(_ran(job)),
        first_line(job.get("error")),
    )
    time_of_day = clock(event.get("timestamp"), fine=True)
    text = "  ".join(part for part in parts if part)
    if width is not None:
        text = fit(text, max(0, width - len(time_of_day) - _STATE_WIDTH - 4))
    colour = COLOURS.get(state)
    shown = state.ljust(_STATE_WIDTH)
    painted = style.paint(shown, colour) if colour is not None else shown
    return style.text(f"{time_of_day}  {painted}  {text}".rstrip())


def _ran(job: Mapping[str, Any]) -> float | None:
    """Seconds between a task's beginning and its end."""
    try:
        began, ended = (datetime.fromisoformat(job[name]) for name in ("startedAt", "completedAt"))
        return max(0.0, (ended - began).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None
