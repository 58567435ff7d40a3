"""Tasks as they lie in a queue: messages like Celery's own, put there in one step or at a pace.

The sender is the harness itself and no Celery: what a worker costs must not depend on who feeds it.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

QUEUE = "celery"


class Work(NamedTuple):
    """One kind of task, and how many of it make one turn."""

    name: str
    task: str
    kwargs: dict[str, Any]
    #: Messages per turn.
    tasks: int
    #: Tasks that one message becomes, itself included.
    becomes: int = 1
    #: Turns that are measured, and whether there is one more before them.
    cycles: int = 1
    warm_up: bool = True
    concurrency: int = 2


def message(task: str, kwargs: dict[str, Any]) -> str:
    """A message of Celery's protocol 2, in kombu's envelope for Redis."""
    task_id = str(uuid.uuid4())
    body = json.dumps([[], kwargs, {"callbacks": None, "errbacks": None, "chain": None}])
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "benchmark",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": str(uuid.uuid4()),
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
    }
    return json.dumps(
        {
            "body": base64.b64encode(body.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )


def paced(
    work: Work, rate: float, slots: Iterable[int], put: Callable[[str], object]
) -> Iterator[tuple[int, float]]:
    """Put a turn's messages one after the other, `rate` per second; each slot and when it was due.

    The times do not wait for the worker, nor for us: a task that was put late was due on time, and
    its wait counts.
    """
    begun = time.monotonic()
    for number, slot in enumerate(slots):
        due = begun + number / rate
        data = message(work.task, work.kwargs | {"slot": slot})
        time.sleep(max(0.0, due - time.monotonic()))
        put(data)
        yield slot, due
