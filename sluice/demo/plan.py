"""What the demo sends to each pool, and what it expects to hear of it."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

from celery import chain

from sluice.demo import app as tasks
from sluice.demo.processes import queue_of
from sluice.demo.timeline import Expectation

if TYPE_CHECKING:
    from collections.abc import Iterator

_REMIND_AFTER: Final = 2.0
#: The first eight tasks have one of each kind in them; a chain counts as three.
_MIX: Final = (
    "charge", "email", "sync", "remind", "report", "chain", "charge", "charge", "email",
    "charge", "charge", "sync", "charge", "remind", "charge", "email", "charge", "charge",
)  # fmt: skip
_CHAIN: Final = (tasks.create_invoice, tasks.render_invoice, tasks.mail_invoice)


def mix(count: int) -> Iterator[str]:
    """The kinds to send so that `count` tasks result, in order."""
    left = count
    for kind in cycle(_MIX):
        if left <= 0:
            return
        fits = kind != "chain" or left >= len(_CHAIN)
        yield kind if fits else "charge"
        left -= len(_CHAIN) if fits and kind == "chain" else 1


def send(kind: str, pool: str, private: str) -> list[Expectation]:
    """Send one of a kind with an argument that must stay private: what must come of it."""
    queue = queue_of(pool)
    if kind == "chain":
        first, *rest = [task.s().set(queue=queue) for task in _CHAIN]
        last = chain(first.clone(args=(private,)), *rest).apply_async()
        ids = [last.parent.parent.id, last.parent.id, last.id]
        return [
            Expectation(task_id, task.name, pool) for task_id, task in zip(ids, _CHAIN, strict=True)
        ]
    task, options, expected = _KINDS[kind]
    result = task.apply_async((private,), queue=queue, **options)
    return [Expectation(result.id, task.name, pool, **expected)]


_KINDS: Final[dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]] = {
    "charge": (tasks.charge, {}, {}),
    "email": (tasks.send_email, {}, {"ends": "failed"}),
    "sync": (tasks.sync_inventory, {}, {"retries": tasks.SYNC_RETRIES}),
    "remind": (tasks.remind, {"countdown": _REMIND_AFTER}, {"scheduled": True}),
    "report": (tasks.build_report, {}, {}),
}
