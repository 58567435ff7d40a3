"""What is counted of tasks, kept up to date with their rows, in the same transaction.

Counting 200,000 rows anew takes seconds beside a writer, and a page wants it every second.  So
each task leaves its marks in a table of counts; when it changes, the old marks are taken away
and the new ones put down.  A test holds that the counts are those of the rows.  Pure.

Marks of a *name* are of the tasks that are kept, and go with them; marks of a *slot* of five
seconds are of what ended then, and stay until that is of no interest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from sluice.collector.story import STATES

#: Seconds of one slot.
SLOT: Final = 5.0
#: Retries of one task that count.
_MOST_RETRIES: Final = 1000

#: (name, slot, kind, place): a name is "" for marks of a slot, a slot 0 for those of a name.
Mark = tuple[str, int, str, int]


def of_name(row: Mapping[str, Any]) -> list[Mark]:
    """What a task counts for under its name: its state, and where its times lie."""
    name: str = row["name"]
    marks: list[Mark] = [(name, 0, "state", STATES.index(row["state"]))]
    if row["wait_bin"] is not None:
        marks.append((name, 0, "wait", row["wait_bin"]))
    if row["run_bin"] is not None:
        marks.append((name, 0, "run", row["run_bin"]))
    return marks


def of_slot(row: Mapping[str, Any]) -> list[Mark]:
    """What a task that has ended counts for in the seconds of its end."""
    if row["ended"] is None:
        return []
    slot = slot_of(row["ended"])
    marks: list[Mark] = [("", slot, "ended", 0)]
    if row["state"] == "failed":
        marks.append(("", slot, "failed", 0))
    marks += [("", slot, "retried", 0)] * min(row["retries"], _MOST_RETRIES)
    if row["wait_bin"] is not None:
        marks.append(("", slot, "wait", row["wait_bin"]))
    if row["run_bin"] is not None:
        marks.append(("", slot, "run", row["run_bin"]))
    return marks


def slot_of(at: float) -> int:
    """The slot of a time; never 0, which stands for none."""
    return int(at // SLOT) or 1


def difference(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Counter[Mark]:
    """What to add to the counts when a row takes the place of another one."""
    counts: Counter[Mark] = Counter()
    counts.update([*of_name(after), *of_slot(after)])
    if before is not None:
        counts.subtract([*of_name(before), *of_slot(before)])
    return counts
