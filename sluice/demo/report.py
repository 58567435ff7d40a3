"""The demo's last word: the numbers, one timeline as it arrived, and the verdict."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sluice.demo.ledger import SENDER, Ledger
from sluice.demo.screen import Style, final_table, seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluice.testing import Received

_SHOWN: Final = 8
_INDENT: Final = "  "


@dataclass(slots=True)
class Findings:
    """What the demo saw, and whether that is what it promises."""

    pools: Sequence[str]
    ledger: Ledger = field(default_factory=Ledger)
    requests: int = 0
    #: Requests with a text in them that was an argument or a result.
    leaks: int = 0
    #: Why requests were not accepted.
    refusals: list[str] = field(default_factory=list)
    #: Pools whose worker did not end when it was asked to.
    killed: list[str] = field(default_factory=list)

    def add(self, received: Received, private: str) -> None:
        """Take one request into account."""
        self.requests += 1
        self.leaks += private.encode() in received.body
        if received.kept:
            self.ledger.add_request(received.connection, received.events)
        else:
            self.refusals.append(f"{received.status} {_reason(received)}".rstrip())

    def faulty_workers(self) -> dict[str, list[str]]:
        """Pool -> what was missing or wrong in the life of its worker."""
        found = {
            pool: [
                *self.ledger.worker_faults(pool),
                *(["did not end when it was asked to"] if pool in self.killed else []),
            ]
            for pool in self.pools
        }
        return {pool: faults for pool, faults in found.items() if faults}

    @property
    def fine(self) -> bool:
        """Whether everything was as it must be."""
        return (
            self.ledger.complete == self.ledger.expected > 0
            and not self.ledger.strangers()
            and not self.faulty_workers()
            and not self.leaks
            and not self.refusals
        )


def summary(findings: Findings, elapsed: float, width: int, style: Style) -> list[str]:
    """The last lines of the demo."""
    ledger = findings.ledger
    stats = [ledger.stats(pool) for pool in (*findings.pools, SENDER)]
    lines = ["", *final_table(stats, width, style), ""]
    lines += _example(ledger, width)
    for pool in findings.pools:
        lines += _incomplete(ledger, pool)
    for good, text in _verdicts(findings):
        lines.append(f"{_INDENT}{style.mark(good)} {text}")
    lines.append(f"{_INDENT}{elapsed:.1f} s")
    return [style.text(line) for line in lines]


def _verdicts(findings: Findings) -> Iterator[tuple[bool, str]]:
    ledger = findings.ledger
    yield (
        ledger.complete == ledger.expected,
        (f"{ledger.complete} of {ledger.expected} timelines complete"),
    )
    faulty = findings.faulty_workers()
    seen = len(findings.pools) - len(faulty)
    what = "seen online, with heartbeats, and offline at the end"
    yield not faulty, f"{seen} of {len(findings.pools)} workers {what}"
    for pool, faults in faulty.items():
        yield False, f"worker {pool}: {', '.join(faults)}"
    if strangers := ledger.strangers():
        yield False, f"events of {len(strangers)} tasks that nobody sent: {strangers[0]}"
    if findings.refusals:
        yield False, f"{len(findings.refusals)} requests were refused: {findings.refusals[0]}"
    where = f"in {findings.leaks or 'any'} of {findings.requests} requests"
    yield not findings.leaks, f"{'' if findings.leaks else 'no '}arguments or results {where}"


def _incomplete(ledger: Ledger, pool: str) -> Iterator[str]:
    faults = ledger.faults()
    tasks = [one for one in ledger.expectations() if one.pool == pool]
    bad = [one for one in tasks if one.task_id in faults]
    if not bad:
        return
    yield f"{_INDENT}{pool}: {len(bad)} of {len(tasks)} timelines are not complete"
    for task in bad[:_SHOWN]:
        yield f"{_INDENT * 2}{task.name} {task.task_id}: {'; '.join(faults[task.task_id])}"
    if len(bad) > _SHOWN:
        yield f"{_INDENT * 2}… and {len(bad) - _SHOWN} more"
    yield ""


def _example(ledger: Ledger, width: int) -> Iterator[str]:
    """One complete timeline, of the task with the most to tell."""
    faults = ledger.faults()
    complete = [one for one in ledger.expectations() if one.task_id not in faults]
    if not complete:
        return
    task = max(complete, key=lambda one: one.retries)
    timeline = ledger.timeline(task.task_id)
    if timeline is None:
        return
    moments = sorted(timeline.moments, key=lambda moment: (moment.at, moment.key))
    first = moments[0].at
    # A space that does not break keeps each moment in one piece.
    steps = [f"{moment} +{seconds(moment.at - first)}".replace(" ", "\xa0") for moment in moments]
    text = f"{task.name} in {task.pool}: {' → '.join(steps)}"
    wrapped = textwrap.wrap(
        text, max(width, 40), initial_indent=_INDENT, subsequent_indent=_INDENT * 2
    )
    yield from (line.replace("\xa0", " ") for line in wrapped)
    yield ""


def _reason(received: Received) -> str:
    try:
        error: dict[str, str] = json.loads(received.answer.body or b"")["error"]
    except (ValueError, KeyError):
        return ""
    return error.get("message", "")
