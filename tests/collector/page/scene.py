"""A shop's tasks at one moment: what the pictures show, and what is looked at in every view."""

from __future__ import annotations

import random

from tests.collector.page.lives import ended, failed
from tests.collector.wire import Wire, job, queue, worker

#: The task with the longest story.
STORY = "0c9b1f52-7f0a-4f0e-9a37-2b1d64c0a001"
_NAMES = {
    "orders.charge": ("payments", 0.42),
    "orders.confirm": ("default", 0.09),
    "mails.send": ("mail", 0.2),
    "images.resize": ("images", 1.8),
    "reports.nightly": ("default", 6.0),
    "search.index": ("default", 0.05),
}
_WORKERS = ("celery@api-1", "celery@api-2", "mail@queue-1")
_FAULTS = (
    ("mails.send", "SMTPServerDisconnected", "Connection unexpectedly closed"),
    ("orders.charge", "CardDeclined", "Your card has insufficient funds"),
    ("images.resize", "UnidentifiedImageError", "cannot identify image file 'upload-7731.heic'"),
)
_TRACEBACK = """Traceback (most recent call last):
  File "/app/.venv/lib/python3.12/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
  File "/app/shop/payments/tasks.py", line 61, in charge
    receipt = gateway.charge(order.customer, order.total, key=order.id)
  File "/app/shop/payments/gateway.py", line 118, in charge
    raise GatewayTimeout(f"no answer in {timeout:g} s")
shop.payments.gateway.GatewayTimeout: no answer in 5 s"""


def _id(chance: random.Random) -> str:
    text = f"{chance.getrandbits(128):032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def scene(now: float) -> list[Wire]:
    """Some five minutes until `now`, in seconds since 1970: the same each time."""
    chance = random.Random(7)
    events = [*_workers(now), *_story(now), *_odd(now, chance)]
    for _ in range(240):
        name = chance.choices(tuple(_NAMES), (5, 5, 6, 3, 1, 8))[0]
        place, usual = _NAMES[name]
        at = now - 2 - 294 * chance.random() ** 1.1
        fields = {"name": name, "queue": place, "workerId": chance.choice(_WORKERS)}
        wait, run = chance.lognormvariate(-2.5, 0.8), usual * chance.lognormvariate(0, 0.35)
        if chance.random() < 0.07:
            fault, exception, error = chance.choice(_FAULTS)
            fields |= {"name": fault, "queue": _NAMES[fault][0], "state": "failed", "error": error}
            fields |= {"stacktrace": _TRACEBACK, "extensions": {"exceptionClass": exception}}
        events += ended(_id(chance), at, wait=wait, run=run, **fields)
    return events


def _workers(now: float) -> list[Wire]:
    found = []
    for n, (name, pool) in enumerate(zip(_WORKERS, ("prefork", "prefork", "gevent"), strict=True)):
        metadata = {"pool": pool, "software": "celery", "version": "5.5.3"}
        metadata |= {"processed": 18_231 - 4_111 * n, "loadAverage": [0.62 + n / 9, 0.5, 0.4]}
        size = 100 if pool == "gevent" else 8
        queues = ["mail"] if n == 2 else ["default", "payments", "images"]
        found.append(
            worker(
                *(name, "busy", now),
                **{"concurrency": size, "activeJobs": 3 - n, "queues": queues, "pid": 11 + n}
                | {"metadata": metadata},
            )
        )
    suspects = [{"externalId": "killed-1", "name": "images.resize", "attempt": 1, "runtime": 41.0}]
    extensions = {"reason": "killed", "activeTasks": suspects}
    depths = {"default": 4, "payments": 2, "mail": 0, "images": 11}
    return [
        *found,
        worker("celery@old-1", "offline", now - 90),
        worker("celery@spot-3", "offline", now - 30, extensions=extensions),
        *(queue(name, now, depth=depth, consumers=2) for name, depth in depths.items()),
    ]


def _story(now: float) -> list[Wire]:
    """A checkout: a chain, of which the payment was retried twice and failed in the end."""
    root = "0c9b1f52-7f0a-4f0e-9a37-2b1d64c0a000"
    family = {"rootId": root, "name": "orders.charge", "queue": "payments", "parentId": root}
    error = {"error": "no answer in 5 s", "stacktrace": _TRACEBACK}
    extensions = {"exceptionClass": "GatewayTimeout"}
    at = now - 55
    events = ended(root, at, wait=0.03, run=0.2, name="orders.checkout", queue="default")
    events.append(job(STORY, "queued", at + 0.1, maxRetries=2, **family))
    for attempt, (due, start, end) in enumerate(
        ((0, 0.9, 6), (16, 16.4, 21.5), (36, 36.2, 41.4)), 1
    ):
        this = {"attempt": attempt, "maxRetries": 2, "workerId": _WORKERS[attempt % 2]} | family
        if attempt > 1:
            events.append(job(STORY, "scheduled", at + due - 10, scheduledFor=at + due, **this))
        this["startedAt"] = at + start
        state = "failed" if attempt == 3 else "retrying"
        events += [
            job(STORY, "active", at + start, **this),
            job(
                STORY, state, at + end, **this | error, completedAt=at + end, extensions=extensions
            ),
        ]
    receipt = {"parentId": root, "rootId": root, "name": "mails.send", "queue": "mail"}
    events += ended("0c9b1f52-7f0a-4f0e-9a37-2b1d64c0a002", at + 2, run=0.2, wait=0.1, **receipt)
    return events


def _odd(now: float, chance: random.Random) -> list[Wire]:
    """What has a badge, or has not ended."""
    events = [
        job("killed-1", "active", now - 71, startedAt=now - 71, name="images.resize",
            queue="images", workerId="celery@spot-3"),
        job(_id(chance), "active", now - 95, startedAt=now - 95, name="images.resize",
            queue="images", workerId="celery@api-1"),
        job(_id(chance), "cancelled", now - 40, name="reports.nightly", queue="default"),
        *failed(_id(chance), now - 1.5, "CardDeclined", "Your card has insufficient funds",
                run=0.61, wait=0.05, name="orders.charge", queue="payments",
                workerId="celery@api-1"),
    ]  # fmt: skip
    twice = _id(chance)
    for ago, name in ((4, "celery@api-1"), (1, "celery@api-2")):
        at = now - ago
        events.append(
            job(
                twice,
                "active",
                at,
                startedAt=at,
                name="orders.confirm",
                workerId=name,
                queue="default",
            )
        )
    storm = _id(chance)
    for attempt in range(1, 8):
        at = now - 6 + attempt / 2
        this = {"attempt": attempt, "name": "search.index", "queue": "default", "maxRetries": 50}
        this["workerId"] = "celery@api-2"
        error = {"error": "[Errno 111] Connection refused", "completedAt": at + 0.1}
        refused = {"exceptionClass": "ConnectionRefusedError"}
        events += [
            job(storm, "active", at, startedAt=at, **this),
            job(storm, "retrying", at + 0.1, extensions=refused, **this, **error),
        ]
    for n in range(5):
        at = now - n * 1.9
        events.append(job(_id(chance), "queued", at, name="images.resize", queue="images"))
        events.append(
            job(_id(chance), "active", at - 1, startedAt=at - 0.8, name="mails.send", queue="mail",
                workerId="mail@queue-1")
        )  # fmt: skip
    for n in range(2):
        events.append(
            job(_id(chance), "scheduled", now - 20 - n, scheduledFor=now + 3600,
                name="reports.nightly", queue="default")
        )  # fmt: skip
    return events
