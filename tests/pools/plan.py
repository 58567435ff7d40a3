"""Every way that a task can go: how it is sent, and what must be heard of it in which pool.

A life is written in the names of Celery's events. An attempt is a list of what its worker tells, in
order of arrival; `sent` comes from another process, in no order to the rest, once per attempt.
"""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from celery import __version__ as celery_version

from tests.harness import POOLS

CELERY = tuple(map(int, celery_version.split(".")[:2]))
PLAIN = "received started succeeded"
#: Celery's gevent pool can end a task since 5.5.
TERMINATE = ("prefork", "gevent", "eventlet") if CELERY >= (5, 5) else ("prefork", "eventlet")
HARD_LIMIT = ("prefork", "gevent")
ETA = 6.0
#: An ETA that leaves time to revoke the task, also where a worker is busy.
LATER = 8.0
#: Three heartbeats.
SLOW = 6.0
#: Sent when the revoking is done: a solo worker hears of nothing while it runs a long task.
GATE = "the rest"

#: The unified state of each event of the contract; `received` with a future ETA is `scheduled`.
STATES = {
    "sent": "queued",
    "received": "queued",
    "started": "active",
    "succeeded": "completed",
    "ignored": "completed",
    "failed": "failed",
    "unknown": "failed",
    "rejected": "failed",
    "retried": "retrying",
    "revoked": "cancelled",
    "requeued": "retrying",  # `rejected` with requeue
}
ENDS = ("succeeded", "ignored", "failed", "unknown", "rejected", "retried", "revoked", "requeued")


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    Attributes:
        name: What the table calls it.
        task: The task's name.
        attempts: For each attempt what the worker tells.
        max_retries: What the events must say; None where nobody can know it.
        error: What the error text of the end must be, and the class of the exception.
        children: The tasks that it sends, by name.
        pools: Where it can be had.
        needs_redis: A chord needs a result backend that can count.
        gate: The file that lets it be sent.
    """

    name: str
    task: str = "basic.ok"
    attempts: tuple[str, ...] = (PLAIN,)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    max_retries: int | None = 3
    error: tuple[str, str] | None = None
    children: tuple[str, ...] = ()
    pools: tuple[str, ...] = POOLS
    needs_redis: bool = False
    gate: str = "go"

    @property
    def queue(self) -> str:
        return self.options.get("queue", "celery")

    @property
    def events(self) -> int:
        """How many events it gives, its children's included."""
        own = sum(1 + len(attempt.split()) for attempt in self.attempts)
        return own + len(self.children) * (1 + len(PLAIN.split()))


_FAILS = "received started failed"
_RETRIES = "received started retried"

KINDS = (
    # What has an ETA comes first: a busy solo worker would take it from the broker too late.
    # On RabbitMQ `expires` is the message's time to live too: let it expire at the worker.
    Kind(
        "expired",
        attempts=("received revoked",),
        options={"countdown": LATER, "expires": LATER - 0.5},
    ),
    Kind("revoked with ETA", attempts=("received revoked",), options={"countdown": LATER}),
    Kind("ETA", options={"countdown": ETA}),
    Kind("ok", args=(1,)),
    Kind("fail", "basic.fail", (_FAILS,), error=("it broke", "ValueError")),
    Kind("retry, then ok", "basic.retry_then_ok", (_RETRIES, _RETRIES, PLAIN), (2,), max_retries=5),
    Kind(
        "retries exceeded",
        "basic.retry_forever",
        (_RETRIES, _FAILS),
        error=("Can't retry", "MaxRetriesExceededError"),
    ),
    Kind(
        "retries exceeded, own error",
        "basic.retry_forever",
        (_RETRIES, _FAILS),
        ("no luck",),
        error=("[argument]", "ConnectionError"),  # its text is its argument
    ),
    Kind("Ignore", "basic.ignored", ("received started ignored",)),
    Kind(
        "Reject",
        "basic.rejected",
        (_FAILS if CELERY >= (5, 7) else "received started rejected",),
        error=("not for us", "Reject"),
    ),
    Kind("Reject, requeue", "life.requeued", (f"received started requeued {PLAIN}",)),
    # Celery tells of no `received` here, and so do we.
    Kind("revoked before start", attempts=("revoked",)),
    Kind(
        "terminated",
        "basic.slow",
        ("received started revoked",),
        (60,),
        pools=TERMINATE,
    ),
    Kind(
        "hard time limit",
        "basic.hard_limit",
        (_FAILS,),
        (60,),
        error=("TimeLimitExceeded(1,)", "TimeLimitExceeded"),
        pools=HARD_LIMIT,
    ),
    Kind(
        "soft time limit",
        "basic.soft_limit",
        (_FAILS,),
        (60,),
        error=("SoftTimeLimitExceeded", "SoftTimeLimitExceeded"),
        pools=("prefork",),
    ),
    Kind(
        "soft time limit, survived",
        "basic.soft_limit",
        args=(60,),
        kwargs={"survive": True},
        pools=("prefork",),
    ),
    Kind(
        "child killed",
        "basic.die",
        (_FAILS,),
        error=("signal 9", "WorkerLostError"),
        pools=("prefork",),
    ),
    Kind(
        "unknown task",
        "no.such.task",
        ("unknown",),
        max_retries=None,
        error=("no.such.task", ""),
    ),
    Kind("acks_late", "basic.acks_late"),
    Kind("ignore_result", "basic.no_result"),
    Kind("rate limited 1", "basic.rate_limited"),
    Kind("rate limited 2", "basic.rate_limited"),
    Kind("rate limited 3", "basic.rate_limited"),
    Kind("second queue", options={"queue": "second"}),
    Kind("third queue", options={"queue": "third"}),
    Kind("custom Task base", "basic.custom_base"),
    Kind(
        "custom Task base, fails",
        "basic.custom_base",
        (_FAILS,),
        kwargs={"broken": True},
        error=("it broke", "ValueError"),
    ),
    Kind("custom Task.Request", "basic.custom_request"),
    # The sender does not know it, so its `sent` has no maxRetries.
    Kind("registered late", "basic.late"),
    Kind(
        "sends by delay",
        "basic.sends_others",
        args=(2, "delay"),
        children=("basic.ok", "basic.ok"),
    ),
    Kind(
        "sends by apply_async",
        "basic.sends_others",
        args=(2, "apply_async"),
        children=("basic.ok", "basic.ok"),
    ),
    Kind(
        "sends by send_task",
        "basic.sends_others",
        args=(2, "send_task"),
        children=("basic.ok", "basic.ok"),
    ),
    Kind("sends a chain", "basic.canvas", args=("chain",), children=("basic.ok",) * 3),
    Kind("sends a group", "basic.canvas", args=("group",), children=("basic.ok",) * 3),
    Kind(
        "sends a chord",
        "basic.canvas",
        args=("chord",),
        children=("basic.ok",) * 3 + ("basic.no_result",),
        needs_redis=True,
    ),
    # Longer than the time between two heartbeats: one of them must say "busy".
    Kind("slow", "basic.slow", args=(SLOW,), gate=GATE),
)


def kinds_for(pool: str, broker: str) -> list[Kind]:
    """What can be had in this pool, on this broker."""
    return [
        kind for kind in KINDS if pool in kind.pools and (broker == "redis" or not kind.needs_redis)
    ]


def messages(kinds: list[Kind], ids: dict[str, str]) -> Iterator[dict[str, Any]]:
    """What `tests.pools.apps.send` takes; `ids` gives the task ids that must be known before."""
    for kind in kinds:
        options = dict(kind.options)
        if kind.name in ids:
            options["task_id"] = ids[kind.name]
        yield {
            "kind": kind.name,
            "gate": kind.gate,
            "task": kind.task,
            "args": kind.args,
            "kwargs": kind.kwargs,
            "options": options,
        }


def new_id() -> str:
    return str(uuid.uuid4())
