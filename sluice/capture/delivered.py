"""One delivery of a message, as Celery's `Request` has it, and what all its events say."""

from __future__ import annotations

from typing import Any, Protocol

from sluice.events import (
    EXTENSION_LIMIT,
    ID_LIMIT,
    NAME_LIMIT,
    Job,
    JobState,
    Scalar,
    cut,
    exchange_name,
    queue_name,
    task_id,
)


class Delivery(Protocol):
    """What is used of a `celery.worker.request.Request`, and what we keep on it."""

    id: str
    name: str
    hostname: str
    time_start: float | None
    worker_pid: int | None
    task: Any
    request_dict: dict[str, Any]
    delivery_info: dict[str, Any]
    eta: Any
    root_id: str | None
    parent_id: str | None

    sluice_state: JobState | None
    sluice_last: float
    sluice_failure: Any
    sluice_time_limit: float | None
    sluice_job: Job | None
    sluice_where: dict[str, Scalar] | None
    sluice_next_received: float | None


def attempt_of(request: Delivery) -> int:
    """Which attempt of its task it is, from 1."""
    return (request.request_dict.get("retries") or 0) + 1


def is_next(request: Delivery, earlier: Delivery) -> bool:
    """Whether it is the next attempt, and not the same one delivered again."""
    return attempt_of(request) == attempt_of(earlier) + 1


def begin(request: Delivery) -> Job:
    """Note what stays the same for all events of a request; each event then changes the rest."""
    info = request.delivery_info
    where: dict[str, Scalar] = {}
    if info.get("exchange"):
        where["exchange"] = cut(exchange_name(info["exchange"]), EXTENSION_LIMIT)
    if info.get("redelivered"):
        where["redelivered"] = True
    request.sluice_where = where or None
    max_retries = request.task.max_retries
    request.sluice_job = Job(
        external_id=task_id(request.id) or "unknown",
        name=cut(request.name, NAME_LIMIT),
        state="unknown",
        queue=queue_name(info.get("routing_key")),
        worker_id=cut(request.hostname, ID_LIMIT),
        attempt=attempt_of(request),
        max_retries=max_retries if isinstance(max_retries, int) else None,
        # Celery names a task that retries itself as the parent of the next attempt.
        parent_id=task_id(request.parent_id) if request.parent_id != request.id else None,
        root_id=task_id(request.root_id),
    )
    return request.sluice_job
